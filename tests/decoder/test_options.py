"""Decoding options, the repetition penalty and sampling on hand-made logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vocalnet.decoder.options import DecodeOptions, RepetitionAware, RepetitionPenalty
from vocalnet.decoder.sampling import Draws, measure, pick, restrict

LOGITS = torch.tensor([4.0, -2.0, 1.0, 0.0])
HISTORY = torch.tensor([3, 0, 0, 1])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [2.0, -4.0, 1.0, 0.0]),
        ({"per_occurrence": True}, [1.0, -4.0, 1.0, 0.0]),
        ({"sign_aware": False}, [2.0, -1.0, 1.0, 0.0]),
        ({"per_occurrence": True, "sign_aware": False}, [1.0, -1.0, 1.0, 0.0]),
        ({"window": 1}, [4.0, -4.0, 1.0, 0.0]),
        ({"window": 2, "per_occurrence": True}, [2.0, -4.0, 1.0, 0.0]),
        ({"window": 0}, [4.0, -2.0, 1.0, 0.0]),
        ({"window": 0, "scope": "call"}, [2.0, -4.0, 1.0, 0.0]),
        ({"factor": 1.0}, [4.0, -2.0, 1.0, 0.0]),
    ],
)
def test_penalty(changes: dict[str, Any], expected: list[float]) -> None:
    penalty = RepetitionPenalty(**changes)
    before = LOGITS.clone()
    assert penalty.apply(LOGITS, HISTORY).tolist() == expected
    assert torch.equal(LOGITS, before)
    batch = penalty.apply(torch.stack([LOGITS, LOGITS]), torch.stack([HISTORY, torch.full((4,), -1)]))
    assert batch.tolist() == [expected, LOGITS.tolist()]  # -1 is no token


def test_penalty_with_empty_history() -> None:
    assert torch.equal(RepetitionPenalty().apply(LOGITS, HISTORY[:0]), LOGITS)


def test_released_settings() -> None:
    assert RepetitionPenalty.released_offline() == RepetitionPenalty(5, 2.0, True, False, "main", "sequence")
    assert RepetitionPenalty.released_streaming() == RepetitionPenalty(6, 2.0, True, False, "all", "call")
    assert DecodeOptions.released(5).penalty == RepetitionPenalty.released_offline()
    streaming = DecodeOptions.released_streaming(5)
    assert (streaming.mask, streaming.count, streaming.tokens_per_step) == ("streaming", "released", 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens_per_step": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"seed": 2**64},
        {"tau": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"max_tokens": 0},
        {"mask": "causal"},
        {"count": "both"},
        {"eps": 0.0},
        {"alpha": 0.0},
        {"top_n": 0},
        {"tau": -0.1},
        {"repetition_aware": RepetitionAware()},
    ],
)
def test_options_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        DecodeOptions(**changes)


@pytest.mark.parametrize("changes", [{"heads": "first"}, {"scope": "chunk"}, {"window": -1}, {"factor": 0.0}])
def test_penalty_settings_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        RepetitionPenalty(**changes)


def test_restrict() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()
    assert restrict(logits, 1, None).isfinite().tolist() == [[True, False, False, False]]
    assert restrict(logits, None, 0.4).isfinite().tolist() == [[True, False, False, False]]
    assert restrict(logits, None, 0.85).isfinite().tolist() == [[True, True, True, False]]
    assert restrict(logits, 10, 1.0).isfinite().all()


def test_draws_follow_the_distribution_and_the_seed() -> None:
    probs = torch.tensor([0.6, 0.3, 0.1])
    options = DecodeOptions(temperature=1.0, seed=0)
    draws = Draws(2, 0, probs.device)
    picked = torch.stack([pick(probs.log().expand(2, 3), options, draws) for _ in range(2000)])
    assert torch.equal(picked[:, 0], picked[:, 1])  # each sample of a batch draws as it would alone
    shares = torch.bincount(picked[:, 0]) / 2000
    assert torch.allclose(shares, probs, atol=0.04)


def test_greedy_needs_no_draws() -> None:
    assert pick(LOGITS[None], DecodeOptions(), Draws(1, None, LOGITS.device)).tolist() == [0]


def test_measure_of_a_uniform_distribution() -> None:
    entropy, max_prob, logprob = measure(torch.zeros(1, 8), torch.tensor([3]))[0].tolist()
    assert entropy == pytest.approx(2.0794415)  # ln 8
    assert max_prob == pytest.approx(0.125)
    assert logprob == pytest.approx(-2.0794415)
