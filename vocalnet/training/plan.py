"""How much memory a fine-tuning run takes on each device: sizes of the very modules, and arithmetic on them.

Weights are counted on the meta device, where they take no memory. Activations follow from what each layer keeps for its
backward pass, in numbers per row; `plan_check.py` holds that against measured runs.

Letters: B samples at once, L positions of the LLM, n targets, D / F / H width, feed-forward width
and heads, T talker rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from vocalnet.config import TalkerConfig, VocalNetConfig
from vocalnet.experts import decoder_layers
from vocalnet.llm import embeddings
from vocalnet.model import VocalNet
from vocalnet.training.methods import Prepared, equip
from vocalnet.training.objectives import ENTROPY_ROWS
from vocalnet.training.settings import Settings

FLOAT = 4  # bytes
NF4 = 4.127 / 8  # bytes per weight: 4 bits and their doubly quantised scales
SHARDINGS = ("none", "fsdp", "zero3")
# numbers of FLOAT size that one step of an optimizer keeps per trained weight; others are taken for AdamW
STATES = {"sgd": 0.0, "adafactor": 0.01, "lion_32bit": 1.0, "adamw_bnb_8bit": 0.5, "adamw_8bit": 0.5, "lion_8bit": 0.25}
ADAM_STATES = 2.0


@dataclass(frozen=True)
class Shape:
    """Lengths of a sample; all samples of a batch are taken to be as long.

    Attributes:
        audio_s: seconds of the question.
        prompt: text tokens around the audio.
        answer: text tokens of the answer.
        speech: speech tokens of the answer, 25 a second.
    """

    audio_s: float = 10.0
    prompt: int = 60
    answer: int = 120
    speech: int = 750


@dataclass(frozen=True)
class Plan:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass
    transient: int  # logits, masks, a layer gathered or computed again
    peak: int
    n_trained: int
    n_weights: int

    def to_dict(self) -> dict[str, int]:
        """Returns plain numbers."""
        return asdict(self)


def plan(config: VocalNetConfig, settings: Settings, shape: Shape, n_devices: int = 1, sharding: str = "none") -> Plan:
    """Returns the memory of a run.

    The forward pass ends with all activations and the logits, the backward pass with all gradients: the greater of the
    two, on top of weights and optimizer state, is the peak.

    Raises:
        ValueError: there is no such sharding, or stage 2 has no talker.
    """
    if sharding not in SHARDINGS:
        raise ValueError(f"Unknown sharding {sharding!r}. Available: {', '.join(SHARDINGS)}.")
    with torch.device("meta"):
        prepared = equip(
            VocalNet(config), replace(settings, method=_counted_as(settings), gradient_checkpointing=False)
        )
    model = prepared.objective.model
    shards = 1 if sharding == "none" else n_devices
    n_trained = sum(weight.numel() for weight in prepared.trained.values())
    n_active = n_trained - _lisa_frozen(prepared, settings)
    weights = _weight_bytes(prepared, settings) / shards
    gradients = n_active * FLOAT / shards
    optimizer = gradients * STATES.get(settings.optimizer, ADAM_STATES)
    copies = 2 * n_trained if settings.bf16 else 0  # autocast keeps trained weights in half precision as well
    buckets = gradients if sharding == "none" and n_devices > 1 else 0  # of DDP
    gathered = _largest_layer(model) * 2 * (2 if settings.bf16 else FLOAT) if shards > 1 else 0
    work = Work(model, settings, shape)
    activations, head, layer = (work.alignment if settings.stage == 1 else work.speech)()
    forward = activations + head + copies
    backward = gradients + buckets + layer
    transient = max(forward, backward) - (activations if forward >= backward else gradients) + gathered
    return Plan(
        weights=round(weights),
        gradients=round(gradients),
        optimizer=round(optimizer),
        activations=round(activations),
        transient=round(transient),
        peak=round(weights + optimizer + max(forward, backward) + gathered),
        n_trained=n_trained,
        n_weights=sum(weight.numel() for weight in model.parameters()),
    )


@dataclass(frozen=True)
class Work:
    """Bytes of one batch's activations on a device, as triples: kept, more at the forward's end, of one layer."""

    model: VocalNet
    settings: Settings
    shape: Shape

    @property
    def size(self) -> int:
        """Bytes of an activation."""
        return 2 if self.settings.bf16 else FLOAT

    @property
    def audio(self) -> int:
        """Audio embeddings of a sample."""
        config = self.model.parts
        window = config.encoder.window_s if config.encoder.pad_to_window else self.shape.audio_s
        return int(min(window, self.shape.audio_s) * 50) // config.adaptor.rate

    def alignment(self) -> tuple[float, float, float]:
        """Stage 1: the LLM's layers, the adaptor, and the logits over the text vocabulary."""
        B, shape, settings = self.settings.batch_per_device, self.shape, self.settings
        L = self.audio + shape.prompt + shape.answer
        llm = self.model.llm.config.get_text_config()
        D, n_layers, n_targets = llm.hidden_size, llm.num_hidden_layers, B * (shape.answer + 1)
        n_trained = {"lisa": settings.lisa_layers}.get(settings.method, n_layers)
        share = n_trained / n_layers  # of the layers, on average
        n_kept = B * L * (share * llm_layer(llm, L, settings) + (1 - share) * frozen_layer(llm, L))
        adaptor = self.model.adaptor.linear1
        kept = B * self.audio * (adaptor.in_features + 2 * adaptor.out_features) * FLOAT
        kept += (3 * B * L * D + 2 * n_targets * D) * self.size  # embedded prompt, padded prompt, final norm; states
        logits = n_targets * len(embeddings(self.model.llm))
        entropy = 3 * min(n_targets, ENTROPY_ROWS) * len(embeddings(self.model.llm)) * FLOAT
        head = logits * (FLOAT + self.size) + max(entropy, logits * FLOAT)
        layer = n_kept * self.size + B * L * kept_in_float32(llm, settings) * (FLOAT - self.size)
        inputs = B * L * D * self.size
        body = n_layers * inputs if settings.gradient_checkpointing else n_layers * layer
        return kept + body, head, layer

    def speech(self) -> tuple[float, float, float]:
        """Stage 2: the talker's layers over text and speech, its masks, and the logits of every head."""
        talker, config = self.model.talker, _talker(self.model)
        assert talker is not None
        B, shape, settings = self.settings.batch_per_device, self.shape, self.settings
        rows = 1 + -(-shape.speech // talker.head.stride)
        n_text, K = shape.answer + 2, talker.head.n_heads
        T, D, n_targets = n_text + rows, config.dim, B * rows
        row = talker_block(config)
        depths = talker.head.n_depths
        n_rows = config.n_projector_layers * B * n_text + (config.n_layers + depths) * B * T
        body = n_rows * (D if settings.gradient_checkpointing else row) * self.size
        masks = B * T * T * (FLOAT + 4)  # what attention adds, and the booleans that it is made of
        inputs = (3 * B * T * D + 2 * B * n_text * D) * FLOAT
        states = K * n_targets * (3 * D + config.vocab_size) * FLOAT  # gathered rows, their norm; log-probabilities
        head = n_targets * config.vocab_size * FLOAT * 3
        return body + masks + inputs + states, head, B * T * row * self.size


def frozen_layer(config: Any, L: int) -> float:
    """Returns the numbers per row that a decoder layer of frozen weights keeps for the gradients of its inputs.

    Counted by hooks on saved tensors over transformers' Llama (RMSNorm, attention through SDPA, SwiGLU): q, k, v and
    attention's output, two residual sums, three of the feed-forward network, a row of the mask, sums over rows. A
    single key-value head keeps less.
    """
    return 6 * config.hidden_size + 3 * config.intermediate_size + config.num_attention_heads + L + 2


def llm_layer(config: Any, L: int, settings: Settings) -> float:
    """Returns the numbers per row that a decoder layer keeps which a method trains; counted as `frozen_layer`."""
    D, F, H = config.hidden_size, config.intermediate_size, config.num_attention_heads
    kept = frozen_layer(config, L)
    if settings.method in ("full", "lisa", "experts"):
        return kept + 4 * D + F
    kept += 2 * D + F + 7 * settings.lora_rank
    if settings.lora_dropout:
        kept += 10 * D + F
    outputs = 3 * D + 2 * F + 2 * D * config.num_key_value_heads / H
    return kept + (2 * outputs if settings.method == "dora" else 0)


def kept_in_float32(config: Any, settings: Settings) -> float:
    """Returns how many of `llm_layer`'s numbers per row stay in float32 under autocast: sums, and LoRA's dropout."""
    D, F = config.hidden_size, config.intermediate_size
    has_dropout = settings.method not in ("full", "lisa", "experts") and settings.lora_dropout
    return 2 * D + (6 * D + F if has_dropout else 0)


def talker_block(config: TalkerConfig) -> float:
    """Returns the numbers per row that a layer of the talker keeps."""
    D, F = config.dim, config.ffn_dim
    return (14 if config.dropout else 12) * D + 4 * F + config.n_heads + 2


def _counted_as(settings: Settings) -> str:
    """Returns a method with the same trained weights that needs no further library."""
    return "lora" if settings.method == "qlora" else settings.method


def _weight_bytes(prepared: Prepared, settings: Settings) -> float:
    """Returns the bytes of all weights: trained ones in float32, the others as loaded, 4-bit layers packed."""
    model = prepared.objective.model
    loaded = getattr(torch, settings.dtype).itemsize
    packed: set[int] = set()
    if settings.method == "qlora":
        head = model.llm.get_output_embeddings()
        layers = [layer for layer in model.llm.modules() if type(layer) is nn.Linear and layer is not head]
        packed = {id(layer.weight) for layer in layers if not layer.weight.requires_grad}
    total = 0.0
    for weight in model.parameters():
        size = FLOAT if weight.requires_grad else NF4 if id(weight) in packed else loaded
        total += weight.numel() * size
    return total


def _lisa_frozen(prepared: Prepared, settings: Settings) -> int:
    """Returns how many of the trained weights are frozen at any time."""
    if settings.method != "lisa":
        return 0
    layers = decoder_layers(prepared.objective.model.llm)
    per_layer = sum(weight.numel() for weight in layers[0].parameters())
    return per_layer * (len(layers) - settings.lisa_layers)


def _largest_layer(model: VocalNet) -> int:
    """Returns the weights of the largest layer that a sharded run gathers at once, which is two with the next one."""
    return max(sum(weight.numel() for weight in layer.parameters()) for layer in decoder_layers(model.llm))


def _talker(model: VocalNet) -> TalkerConfig:
    assert model.talker is not None
    return model.talker.config
