"""Stage 1 (multi-modal alignment): adaptor and LoRA learn to answer speech as the LLM answers text; then the merge.

Instead of LoRA the LLM may get speech experts (`method: experts`), which leave its text weights alone; or nothing
(`method: hearing`): then the encoder trains with the adaptor, on an LLM that has been aligned before. The paper's
encoder stays frozen, having heard far more than any clips at hand; nano's has not. Or the other way round, some of the
LLM's own layers train on what they hear, and their states are kept near what a talker has learned from
(`method: answering`).

Beside the answer's cross entropy the adaptor keeps the losses of stage_pace, by which it speaks in the LLM's own text
embeddings (a deliberate addition to the paper's stage 1, for a small LLM and little data; weight 0 leaves it out).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional

from vocalnet.llm import Message, prompt_pieces, user_content
from vocalnet.model import VocalNet
from vocalnet.training.augment import augment
from vocalnet.training.data import clip_lengths, has_transcript, read_clip, read_list
from vocalnet.training.experts import prepare_experts
from vocalnet.training.loop import LoopConfig, Losses, batch_order, train
from vocalnet.training.methods import add_lora
from vocalnet.training.stage_pace import TokenReader, encode_clips
from vocalnet.training.stage_text import TRANSCRIBE

METHODS = ("lora", "experts", "hearing", "answering")


def _prepare(model: VocalNet, options: dict[str, Any]) -> PeftModel | None:
    """Freezes all but what a method trains; returns what is to be merged afterwards, if anything.

    Raises:
        ValueError: there is no such method, or encoder or LLM have no such layers.
    """
    method = options.get("method", "lora")
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r} for this stage. Available: {', '.join(METHODS)}")
    if method == "experts":
        prepare_experts(model)
        return None
    model.requires_grad_(False)
    if method == "answering":
        for layer in llm_layers(model, options["llm_layers"]):
            layer.requires_grad_(True)
        return None
    model.adaptor.requires_grad_(True)
    if method == "hearing":
        layers = model.encoder.whisper.layers
        n_layers = options.get("layers", len(layers))
        if not 0 <= n_layers <= len(layers):
            raise ValueError(f"layers is {n_layers}; the encoder has {len(layers)}: choose how many of its last train.")
        model.encoder.requires_grad_(n_layers == len(layers))
        layers[len(layers) - n_layers :].requires_grad_(True)
        return None
    return add_lora(model.llm, **options["lora"])


def llm_layers(model: VocalNet, numbers: Sequence[int]) -> list[nn.Module]:
    """Returns layers of a model's LLM, counted from 0.

    Raises:
        ValueError: none is asked for, or one that is not there.
    """
    layers = model.llm.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    if not numbers or not set(numbers) <= set(range(len(layers))):
        raise ValueError(f"llm_layers is {list(numbers)}; the LLM has layers 0 to {len(layers) - 1}: choose some.")
    return [layers[number] for number in numbers]


class FormerStates:
    """The states of an LLM as it was before a training."""

    def __init__(self, model: VocalNet) -> None:
        """Keeps a copy of the LLM of `model`."""
        self.model = model
        self.llm = copy.deepcopy(model.llm).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, *heard: Any) -> list[Tensor]:
        """Returns `VocalNet.produced_states` of the former LLM, arguments as there."""
        now, self.model.llm = self.model.llm, self.llm
        try:
            return self.model.produced_states(*heard)
        finally:
            self.model.llm = now


def train_alignment(model: VocalNet, data: Path, folder: Path, options: dict[str, Any], seed: int) -> None:
    """Trains `model` in place: its adaptor with LoRA weights, merged into its LLM, with experts or with its encoder; or
    layers of its LLM.

    Args:
        options: "loop" (LoopConfig), "batch_size", "bf16", "method": "lora" (the default, with "lora": rank, alpha,
            dropout), "experts", "hearing" (with "layers": how many of the encoder's last layers learn, all by default)
            or "answering" (with "llm_layers": which of them learn, counted from 0, and "keep": weight of the mean
            squared distance to the states that the LLM had before), "transcribe": share of the clips that are to be
            written down instead of answered, "recognise": weight of the adaptor's losses of stage_pace; both align
            faster than answers alone; "lists" of clips ("train" alone by default), of which those without an answer
            have the adaptor's losses only (the LLM, which was never told to write down lists of words, would mislead);
            "masked": zero stretches of the clips (SpecAugment).

    Raises:
        ValueError: there is no such method, the LLM cannot have experts, encoder or LLM have no such layers, or clips
            without answers are to teach answering.
    """
    entries = [e for name in options.get("lists", ["train"]) for e in read_list(data, name)]
    paths = [data / e["speech"] for e in entries]
    dev = read_list(data, "dev")[: options["n_dev"]]
    dev_clips = [read_clip(data / e["speech"]) for e in dev]
    tokenizer = model.tokenizer
    prompts = {
        task: prompt_pieces(tokenizer, model.family, [Message("user", user_content(task))]) for task in ("", TRANSCRIBE)
    }
    torch.manual_seed(seed)
    method = options.get("method", "lora")
    if method == "answering" and not all("answer" in e for e in entries):
        raise ValueError("The method answering trains on answered clips alone: leave lists without answers out.")
    former = FormerStates(model) if method == "answering" else None
    lora = _prepare(model, options)
    order = batch_order(len(entries), options["batch_size"], seed, clip_lengths(paths))
    reader = TokenReader(model)
    is_masked = options.get("masked", False)

    def losses(step: int, generator: torch.Generator) -> Losses:
        index = order(step)
        rng = np.random.default_rng([seed, step])
        clips = [augment(read_clip(paths[i]), rng)[0] for i in index]
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            features = [states.float() for states in encode_clips(model, clips, generator, is_masked)]
        tasks, answers = [], []
        answered = [k for k, i in enumerate(index) if "answer" in entries[i]]
        for k in answered:
            entry = entries[index[k]]
            transcribe = bool(entry["question"]) and rng.random() < options["transcribe"]
            tasks.append(prompts[TRANSCRIBE if transcribe else ""])
            text = entry["question" if transcribe else "answer"]
            answers.append(tokenizer.encode(text, add_special_tokens=False))
        known = [k for k, i in enumerate(index) if has_transcript(entries[i])]
        heard = [model.adapt(features[k]) for k in known]
        ctc, distance = reader.losses(heard, [entries[index[k]]["question"] for k in known])
        answer, moved = torch.zeros(()), torch.zeros(())
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            if answered:
                heard_and_answered = [features[k] for k in answered], tasks, answers
                produced, answer = model.answer_states(*heard_and_answered)
                if former is not None:
                    moved = functional.mse_loss(torch.cat(produced), torch.cat(former(*heard_and_answered)))
        total = answer + options["recognise"] * (ctc + distance) + options.get("keep", 0.0) * moved
        parts = {"answer": answer, "ctc": ctc, "distance": distance, "moved": moved}
        return {"total": total, **{name: value.detach() for name, value in parts.items()}}

    def evaluate() -> dict[str, float]:
        total = 0.0
        for start in range(0, len(dev), 32):
            features = encode_clips(model, dev_clips[start : start + 32])
            answers = [tokenizer.encode(e["answer"], add_special_tokens=False) for e in dev[start : start + 32]]
            total += model(features, [prompts[""]] * len(answers), answers).item() * len(answers)
        return {"dev_answer": total / len(dev)}

    modules: dict[str, nn.Module] = {} if method == "answering" else {"adaptor": model.adaptor}
    modules |= {"encoder": model.encoder} if method == "hearing" else {"llm": model.llm}
    train(modules, losses, LoopConfig(**options["loop"]), folder, seed, evaluate, options["eval_every"])
    if lora is not None:
        lora.merge_and_unload()  # in place: it wraps model.llm
    model.requires_grad_(False)
