"""Configuration of every part of a VocalNet; defaults are the paper's and the published checkpoints' values.

A config travels with its checkpoint as `config.json`. Unknown keys are errors, so that a typing mistake never
silently becomes a default.

Letters (also in the other modules): B batch, T_a mel frames, T_e encoder frames, L_a audio embeddings, L_t text
positions, L_s speech tokens, C_t / C_s text and speech chunk, K tokens per step, M MTP modules, G group size, D / D_s
LLM and talker width, H heads, V_t / V_s vocabularies, P prompt tokens, N mel frames of the vocoder.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def from_dict(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
    """Returns the dataclass `cls` built from a (nested) dict.

    Raises:
        ValueError: a key is unknown; the message names the nearest known one.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    kwargs: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
        nested = _NESTED.get((cls.__name__, key))
        if nested is not None and value is not None:
            value = from_dict(nested, value, f"{where}.{key}")
        kwargs[key] = tuple(value) if isinstance(value, list) else value
    return cls(**kwargs)


@dataclass(frozen=True)
class EncoderConfig:
    """Whisper-architecture speech encoder; defaults: whisper-large-v3."""

    n_mels: int = 128
    dim: int = 1280
    n_layers: int = 32
    n_heads: int = 20
    ffn_dim: int = 5120
    window_s: float = 30.0
    pad_to_window: bool = True  # False: short clips are encoded at their own length (nano), not padded with silence


@dataclass(frozen=True)
class AdaptorConfig:
    """Downsample adaptor (Eq. 1): groups of `rate` frames, Linear, ReLU, Linear."""

    rate: int = 5
    hidden_dim: int = 2048


@dataclass(frozen=True)
class TalkerConfig:
    """Speech projector + speech decoder + head; defaults: the published 1B talker (TALKER table of the paper)."""

    llm_dim: int = 2048
    dim: int = 2048
    ffn_dim: int = 8192
    n_heads: int = 32
    n_projector_layers: int = 2
    n_layers: int = 4
    head: str = "mtp_vocalnet"
    mtp_num: int = 5  # M; at most 1 + M tokens per step
    group_size: int = 3  # G, group heads only
    n_units: int = 6561
    bos_id: int = 6561  # "begin": opens the text part
    sos_id: int = 6562  # "start": opens the speech part
    eos_id: int = 6563
    pad_id: int = 6564
    n_special: int = 4
    text_chunk: int = 5  # C_t
    speech_chunk: int = 15  # C_s
    max_positions: int = 2048
    speech_offset: int = 128  # own behaviour: speech positions start here, so text that arrives later moves nothing
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    dropout: float = 0.1
    loss_decay: float = 0.8  # lambda of Eq. 7
    mask_rule: str = "own"  # "paper" | "released" | "own"
    behaviour: str = "own"  # "released": the published decoding rules (caches, positions, penalties) are the default

    @property
    def vocab_size(self) -> int:
        """V_s: units and special tokens."""
        return self.n_units + self.n_special

    @property
    def n_largest_layer(self) -> int:
        """Weights of the largest layer of a decoding step: attention's or the gate's inputs, or the vocabulary."""
        return self.dim * max(3 * self.dim, 2 * self.ffn_dim, self.vocab_size)


@dataclass(frozen=True)
class FlowEncoderConfig:
    """Upsampling conformer of the flow; defaults: CosyVoice2-0.5B."""

    output_size: int = 512
    attention_heads: int = 8
    linear_units: int = 2048
    num_blocks: int = 6
    num_up_blocks: int = 4


@dataclass(frozen=True)
class EstimatorConfig:
    """Velocity estimator of the flow; defaults: CosyVoice2-0.5B."""

    in_channels: int = 320
    channels: tuple[int, ...] = (256,)
    attention_head_dim: int = 64
    n_blocks: int = 4
    num_mid_blocks: int = 12
    num_heads: int = 8


@dataclass(frozen=True)
class FlowConfig:
    """Speech tokens -> mel by conditional flow matching; key names as in reference/token2wav config.json."""

    input_size: int = 512
    spk_embed_dim: int = 192
    vocab_size: int = 6561
    n_mels: int = 80
    token_mel_ratio: int = 2
    chunk_size: int = 25
    n_steps: int = 10
    cfg_rate: float = 0.7
    temperature: float = 1.0  # of the starting noise where a caller gives none
    encoder: FlowEncoderConfig = field(default_factory=FlowEncoderConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)


@dataclass(frozen=True)
class HiftConfig:
    """HiFT vocoder, mel -> waveform; defaults: CosyVoice2-0.5B at 24 kHz."""

    sample_rate_hz: int = 24000
    n_mels: int = 80
    base_channels: int = 512
    f0_channels: int = 512
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernels: tuple[int, ...] = (16, 11, 7)
    istft_n_fft: int = 16
    istft_hop: int = 4
    source_resblock_kernels: tuple[int, ...] = (7, 7, 11)
    fade: str = "hamming"  # cross-fade of streamed audio: "hamming" as released, "zero" reaches zero at its ends
    mel_window_hops: int = 4  # mel frames per analysis window: 4 * 480 = 1920 samples at the published size

    @property
    def samples_per_frame(self) -> int:
        """Audio samples per mel frame: 8 * 5 * 3 * 4 = 480 at the published size."""
        return self.istft_hop * math.prod(self.upsample_rates)


@dataclass(frozen=True)
class SpeechTokenizerConfig:
    """Convolutional FSQ speech tokenizer, 25 Hz (nano's own; released models use speech_tokenizer_v2.onnx)."""

    n_mels: int = 80
    dim: int = 192
    ffn_dim: int = 384
    n_layers: int = 6
    kernel: int = 7
    levels: tuple[int, ...] = (7, 5, 5, 5)

    @property
    def n_units(self) -> int:
        """Codes: the product of the levels, 7 * 5 * 5 * 5 = 875."""
        return math.prod(self.levels)


@dataclass(frozen=True)
class VocalNetConfig:
    """Everything a checkpoint folder needs besides its weights and its tokenizer."""

    model_type: str = "vocalnet"
    family: str = "nano"  # prompt format and special ids: a row of tokens.FAMILIES
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    adaptor: AdaptorConfig = field(default_factory=AdaptorConfig)
    llm: dict[str, Any] = field(
        default_factory=dict
    )  # a transformers config as a dict; "model_type" picks the architecture
    experts: bool = False  # the LLM's speech positions have attention and FFN weights of their own (experts.py)
    talker: TalkerConfig | None = field(default_factory=TalkerConfig)  # None: a speech-to-text checkpoint
    decoder: str | None = None  # what the talker is called beside a checkpoint's further decoders; None: as its head
    flow: FlowConfig | None = field(default_factory=FlowConfig)
    hift: HiftConfig | None = field(default_factory=HiftConfig)
    speech_tokenizer: SpeechTokenizerConfig | None = None
    max_audio_s: float = 300.0
    max_text_tokens: int = 512

    @property
    def decoder_name(self) -> str | None:
        """What the talker is called; None without one."""
        return None if self.talker is None else self.decoder or self.talker.head

    @classmethod
    def from_file(cls, path: str | Path) -> VocalNetConfig:
        """Reads `config.json` as written by `to_file`."""
        return from_dict(cls, json.loads(Path(path).read_text()), str(path))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return dataclasses.asdict(self)


_NESTED: dict[tuple[str, str], type] = {
    ("FlowConfig", "encoder"): FlowEncoderConfig,
    ("FlowConfig", "estimator"): EstimatorConfig,
    ("VocalNetConfig", "encoder"): EncoderConfig,
    ("VocalNetConfig", "adaptor"): AdaptorConfig,
    ("VocalNetConfig", "talker"): TalkerConfig,
    ("VocalNetConfig", "flow"): FlowConfig,
    ("VocalNetConfig", "hift"): HiftConfig,
    ("VocalNetConfig", "speech_tokenizer"): SpeechTokenizerConfig,
}
