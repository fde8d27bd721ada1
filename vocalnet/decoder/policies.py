"""How many of the proposed tokens are kept.

A policy is a function of one step's proposal; `POLICIES` is the whole list.
Letters: B batch, K proposed tokens, V_s vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vocalnet.decoder.options import DecodeOptions


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one step proposes."""

    tokens: Tensor  # (B, K)
    logits: Tensor  # (B, K, V_s), raw


Policy = Callable[[Proposal, DecodeOptions], int]


def fixed(proposal: Proposal, options: DecodeOptions) -> int:
    """Keeps every proposed token: the paper's 1x, 3x, 5x."""
    return proposal.tokens.shape[1]


POLICIES: dict[str, Policy] = {"fixed": fixed}


def find_policy(name: str) -> Policy:
    """Returns a policy by name.

    Raises:
        ValueError: there is none of that name; the message lists the available ones.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}; available: {', '.join(POLICIES)}")
    return POLICIES[name]
