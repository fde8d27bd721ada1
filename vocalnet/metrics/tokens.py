"""How sure the heads are of their speech tokens: the paper's Figure 3, for every head.

Entropy is in nats; both it and the maximum probability are of the raw logits, before temperature and penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vocalnet.events import TokenStat, acceptance

MAX_PROB_EDGES = np.linspace(0.0, 1.0, 41)
ENTROPY_EDGES = np.linspace(0.0, 9.0, 37)  # ln 6565 = 8.8 is the most that a published talker can reach


def token_summary(stats: Sequence[TokenStat]) -> dict[str, Any]:
    """Returns means and histograms of the proposed tokens, as plain JSON types.

    Returns:
        {"n_steps", "n_proposed", "n_kept", "tokens_per_step", "edges": {"entropy", "max_prob"}, "kept": distributions
        of the tokens that became speech, "heads": [{"head", "n_kept", "kept_share", ...}] and distributions of all that
        each head proposed}. Distributions are {"n", "entropy", "max_prob", "logprob"}, each of the three {"mean",
        "p50", "counts"} (log-probabilities without counts); a mean of no tokens is None. Values beyond the edges are
        counted in the outermost bins.
    """
    found = acceptance(stats)
    heads = []
    for head, share in enumerate(found.by_head):
        own = [stat for stat in stats if stat.head == head]
        n_kept = sum(stat.kept for stat in own)
        heads.append({"head": head, "n_kept": n_kept, "kept_share": share, **_distributions(own)})
    return {
        "n_steps": found.n_steps,
        "n_proposed": found.n_proposed,
        "n_kept": found.n_kept,
        "tokens_per_step": found.tokens_per_step,
        "edges": {"entropy": ENTROPY_EDGES.tolist(), "max_prob": MAX_PROB_EDGES.tolist()},
        "kept": _distributions([stat for stat in stats if stat.kept]),
        "heads": heads,
    }


def agreement(tokens: Sequence[int], reference: Sequence[int]) -> float:
    """Returns the share of places that hold the same token in both, of the longer one's places; 1 for two empty ones.

    A token that is inserted moves all later ones: one early change can cost the rest, though it sounds alike.
    """
    n_same = sum(token == other for token, other in zip(tokens, reference, strict=False))
    longest = max(len(tokens), len(reference))
    return n_same / longest if longest else 1.0


def _distributions(stats: Sequence[TokenStat]) -> dict[str, Any]:
    return {
        "n": len(stats),
        "entropy": _distribution([stat.entropy for stat in stats], ENTROPY_EDGES),
        "max_prob": _distribution([stat.max_prob for stat in stats], MAX_PROB_EDGES),
        "logprob": _distribution([stat.logprob for stat in stats]),
    }


def _distribution(values: Sequence[float], edges: np.ndarray | None = None) -> dict[str, Any]:
    numbers = np.asarray(values, dtype=float)
    row: dict[str, Any] = {
        "mean": float(numbers.mean()) if len(numbers) else None,
        "p50": float(np.median(numbers)) if len(numbers) else None,
    }
    if edges is not None:
        row["counts"] = np.histogram(numbers.clip(edges[0], edges[-1]), edges)[0].tolist()
    return row
