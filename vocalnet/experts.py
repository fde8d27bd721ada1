"""Modality experts: weights of their own for the speech positions of any transformers causal LM.

Source: NaViL, whose modality-specific attention and FFN weights are for images; here they are for speech. Every module
with weights inside a decoder layer (linear layers, norms) gets a second set, `speech_expert`, which starts as a copy;
keys and values of both kinds of positions meet in the one attention. Embeddings, final norm and output head are shared.
In the last layer only the experts of keys and values matter, since no answer is read from a speech position.

A pass without speech positions runs the base module itself, on the same inputs: with frozen text weights, text-only
answers are those of the base LLM bit for bit, by construction. Which positions are speech is told by a context variable
around the pass, since no layer of an LLM would hand it on; nothing is kept on a module, so threads do not meet.

Letters: B batch, L positions, D width.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocalnet.llm import backbone

EXPERT = "speech_expert"  # name of the second set inside a routed module, and so in the keys of its weights


@dataclass(frozen=True, slots=True)
class _Route:
    """Which of the B * L positions of a pass go where."""

    shape: torch.Size  # (B, L)
    text: Tensor  # (n_text,) flat positions
    speech: Tensor  # (n_speech,)
    back: Tensor  # (B * L,) where each position is in text + speech

    @classmethod
    def of(cls, is_speech: Tensor) -> _Route:
        flat = is_speech.flatten()
        text, speech = (~flat).nonzero()[:, 0], flat.nonzero()[:, 0]
        return cls(is_speech.shape, text, speech, torch.cat([text, speech]).argsort())


_ROUTE: ContextVar[_Route | None] = ContextVar("speech positions", default=None)


@contextlib.contextmanager
def speech_positions(is_speech: Tensor | None) -> Iterator[None]:
    """Sends the marked positions of all passes inside the block through the experts, where an LLM has them.

    Args:
        is_speech: booleans (B, L); None, or none of them true: the passes are those of the base LLM.
    """
    has_speech = is_speech is not None and bool(is_speech.any())
    token = _ROUTE.set(_Route.of(is_speech) if is_speech is not None and has_speech else None)
    try:
        yield
    finally:
        _ROUTE.reset(token)


def checkpoint_contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    """For gradient checkpointing with `context_fn=`: its second pass, in the backward, is routed as the first was."""
    return contextlib.nullcontext(), _again(_ROUTE.get())


@contextlib.contextmanager
def _again(route: _Route | None) -> Iterator[None]:
    token = _ROUTE.set(route)
    try:
        yield
    finally:
        _ROUTE.reset(token)


@functools.cache
def _routed(kind: type[nn.Module]) -> type[nn.Module]:
    """Returns the class `kind` with an expert beside its weights, whose names stay as they are."""

    class Routed(kind):  # type: ignore[valid-type, misc]
        def forward(self, x: Tensor) -> Tensor:
            route = _ROUTE.get()
            if route is None:
                return super().forward(x)
            if x.shape[:2] != route.shape:
                raise ValueError(f"speech experts need inputs {tuple(route.shape)} + (...), not {tuple(x.shape)}")
            rows = x.flatten(0, 1)  # (B * L, ...)
            text = super().forward(rows[route.text][None])[0]  # (n_text, ...)
            speech = getattr(self, EXPERT)(rows[route.speech][None])[0]  # (n_speech, ...)
            return torch.cat([text, speech])[route.back].unflatten(0, route.shape)  # (B, L, ...)

    Routed.__name__ = Routed.__qualname__ = f"Routed{kind.__name__}"
    return Routed


def add_experts(llm: PreTrainedModel) -> None:
    """Gives every module with weights inside the decoder layers an expert, in place, that starts as a copy of it.

    Raises:
        ValueError: the LLM has its experts already, or it is of a kind that cannot have them.
    """
    if experts(llm):
        raise ValueError("this LLM has speech experts already; start_experts() makes them copies of its text weights")
    parts = [part for layer in decoder_layers(llm) for part in layer.modules() if [*part.parameters(recurse=False)]]
    for part in parts:
        if [*part.children()] or _n_inputs(part) != 1:
            raise ValueError(
                f"{type(part).__name__} of this LLM has weights of its own and is more than one layer, as in a mixture "
                "of experts: speech experts cannot stand beside it. Train this LLM with LoRA instead."
            )
    for part in parts:
        expert = copy.deepcopy(part)
        part.__class__ = _routed(type(part))  # type: ignore[arg-type]  # mypy takes a class's __hash__ for that of its objects
        part.add_module(EXPERT, expert)


@torch.no_grad()
def start_experts(llm: PreTrainedModel) -> None:
    """Makes every expert a copy of the text weights beside it."""
    for part in llm.modules():
        expert = getattr(part, EXPERT, None)
        if expert is not None:
            for name, weight in expert.named_parameters(recurse=False):
                weight.copy_(getattr(part, name))


def decoder_layers(llm: PreTrainedModel) -> nn.ModuleList:
    """Returns the LLM's decoder layers: the first list of as many modules as its config has layers.

    Raises:
        ValueError: it has no such list.
    """
    n_layers = llm.config.get_text_config().num_hidden_layers
    for part in backbone(llm).modules():
        if isinstance(part, nn.ModuleList) and len(part) == n_layers:
            return part
    raise ValueError(f"{type(llm).__name__} keeps its layers in no list of {n_layers}: speech experts cannot be added.")


def experts(llm: nn.Module) -> nn.ModuleDict:
    """Returns an LLM's experts as one module, by their place in it ("model/layers/0/mlp/up_proj"); may be empty."""
    named = ((name, getattr(part, EXPERT, None)) for name, part in llm.named_modules())
    return nn.ModuleDict({name.replace(".", "/"): expert for name, expert in named if expert is not None})


def without_experts(weights: dict[str, Any]) -> dict[str, Any]:
    """Returns a state dict less the weights of speech experts: the base LLM's own."""
    return {key: value for key, value in weights.items() if f".{EXPERT}." not in key}


def _n_inputs(part: nn.Module) -> int:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    inputs = [p for p in inspect.signature(part.forward).parameters.values() if p.kind in positional]
    return sum(p.default is p.empty for p in inputs)
