"""Distributions that tokens are picked by: restriction, repetition-aware sampling, what a rejection leaves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vocalnet.decoder.options import DecodeOptions, RepetitionAware
from vocalnet.decoder.sampling import Draws, pick, probabilities, residual, weigh

PROBS = torch.tensor([[0.4, 0.3, 0.2, 0.1]])


def shares(history: list[int], **settings: float) -> Tensor:
    """Returns the distribution that repetition-aware sampling gives PROBS cut to its two best tokens."""
    aware = RepetitionAware(**settings)  # type: ignore[arg-type]
    options = DecodeOptions(temperature=1.0, top_k=2, repetition_aware=aware)
    return probabilities(weigh(PROBS.log(), torch.tensor([history]), options), options)


def test_greedy_weighs_nothing() -> None:
    logits = PROBS.log()
    assert weigh(logits, torch.zeros(1, 3, dtype=torch.long), DecodeOptions(top_k=1)) is logits
    assert probabilities(logits, DecodeOptions()).tolist() == [[1, 0, 0, 0]]


def test_a_repeating_draw_is_drawn_again_from_all() -> None:
    first = torch.tensor([[4 / 7, 3 / 7, 0, 0]])
    torch.testing.assert_close(shares([2, 3]), first)  # what is not drawn cannot repeat
    again = torch.tensor([[0, 3 / 7, 0, 0]]) + 4 / 7 * PROBS
    torch.testing.assert_close(shares([0, 2]), again)
    torch.testing.assert_close(shares([0, 1]), PROBS)
    torch.testing.assert_close(shares([0] + [2] * 10), first)  # out of the window
    torch.testing.assert_close(shares([0, 2, 2, 2, 2], window=5, share=0.4), first)  # once is not two fifths
    torch.testing.assert_close(shares([0, 0, 2, 2, 2], window=5, share=0.4), again)


def test_repetition_aware_sampling_follows_the_two_draws_it_stands_for() -> None:
    torch.manual_seed(0)
    n = 20_000
    draws = torch.multinomial(torch.tensor([4 / 7, 3 / 7, 0, 0]), n, replacement=True)
    second = torch.multinomial(PROBS[0], n, replacement=True)
    counts = torch.bincount(torch.where(draws == 1, second, draws), minlength=4)
    torch.testing.assert_close(counts / n, shares([1])[0], atol=0.015, rtol=0)


@pytest.mark.parametrize("settings", [{"window": 0}, {"share": 0.0}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="window >= 1"):
        RepetitionAware(**settings)  # type: ignore[arg-type]


def test_residual() -> None:
    options = DecodeOptions(temperature=1.0)
    rejected = torch.tensor([[0.6, 0.1, 0.2, 0.1]]).log()
    left = probabilities(residual(PROBS.log(), rejected, options, eos_id=2), options)
    torch.testing.assert_close(left, torch.tensor([[0.0, 0.5, 0.5, 0.0]]))  # an end is never accepted from a module
    assert torch.equal(residual(PROBS.log(), PROBS.log(), options, eos_id=3)[:, :3], torch.full((1, 3), -torch.inf))
    greedy = DecodeOptions()
    assert pick(residual(PROBS.log(), rejected, greedy, eos_id=0), greedy, Draws(1, 0, PROBS.device)).tolist() == [0]


def test_accepted_and_residual_draws_are_the_main_heads() -> None:
    """The identity behind `rejection`: q * min(1, p / q) + P(rejected) * residual = p, with the end left to p."""
    options = DecodeOptions(temperature=1.0)
    torch.manual_seed(0)
    for _ in range(20):
        scores, drawn_by = torch.randn(2, 1, 6)
        p, q = probabilities(scores, options), probabilities(drawn_by, options)
        accepted = torch.minimum(p, q)
        accepted[:, 4] = 0
        left = probabilities(residual(scores, drawn_by, options, eos_id=4), options)
        torch.testing.assert_close(accepted + (1 - accepted.sum()) * left, p)


def test_uniform_draws_are_each_samples_own() -> None:
    draws = Draws(2, 3, torch.device("cpu")).uniform(4)
    assert draws.shape == (2, 4)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[:1], Draws(1, 3, torch.device("cpu")).uniform(4))
