"""Stage 1 by the method `experts`: adaptor and speech experts learn, the LLM's text weights stay as they are."""

from __future__ import annotations

from dataclasses import replace

from vocalnet.experts import add_experts, experts, start_experts
from vocalnet.model import VocalNet


def prepare_experts(model: VocalNet) -> None:
    """Leaves trainable only the adaptor and the LLM's speech experts, which start as copies of the text weights.

    A model without experts gets them, and its config says so from then on. There is nothing to merge afterwards: the
    experts are saved as a component of their own.

    Raises:
        ValueError: the LLM is of a kind that cannot have them.
    """
    if not model.parts.experts:
        add_experts(model.llm)
        model.parts = replace(model.parts, experts=True)
    start_experts(model.llm)
    model.requires_grad_(False)
    model.adaptor.requires_grad_(True)
    experts(model.llm).requires_grad_(True)
