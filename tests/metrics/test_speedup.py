"""The bounds of TALKER's section on speedups, by hand, for all heads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vocalnet.config import TalkerConfig
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.heads.group_trans import N_LAYERS
from vocalnet.events import TokenStat
from vocalnet.metrics.speedup import (
    bound_by_layers,
    bound_by_weights,
    bounds_of,
    measured,
    nominal,
    step_cost,
    tokens_per_second,
)

PUBLISHED = TalkerConfig()  # the 1B talker
LAYER = 4 * 2048**2 + 3 * 2048 * 8192 + 2 * 2048  # weights of one of its layers, norms included
OUT = 2048 + 2048 * 6565 + 6565  # of a norm and a vocabulary projection


def stat(head: int, kept: bool = True) -> TokenStat:
    return TokenStat(head, entropy=1.0, max_prob=0.5, logprob=-1.0, kept=kept)


@pytest.mark.parametrize(("K", "expected"), [(1, 1.0), (3, 2.0), (5, 2.5), (6, 8 / 3)])
def test_published_bound_by_layers(K, expected):
    assert bound_by_layers(PUBLISHED, K) == pytest.approx(expected)
    assert bound_by_layers(PUBLISHED, K) == pytest.approx(K * 4 / (4 + K - 1))


def test_published_bound_by_weights():
    assert bound_by_weights(PUBLISHED, 1) == 1
    assert bound_by_weights(PUBLISHED, 5) == pytest.approx(2.33, abs=0.005)
    assert bound_by_weights(PUBLISHED, 5) == pytest.approx(5 * (4 * LAYER + OUT) / (8 * LAYER + 5 * OUT))


@pytest.mark.parametrize("K", [3, 5])
@pytest.mark.parametrize(
    ("head", "own_layers"),
    [
        ("group_linear", lambda K: 0),
        ("group_trans", lambda K: N_LAYERS),
        ("mtp_parallel_linear", lambda K: 0),
        ("mtp_deepseek", lambda K: K - 1),
        ("mtp_vocalnet", lambda K: K - 1),
    ],
)
def test_layers_of_every_head_that_says_more(head, own_layers, K):
    config = replace(PUBLISHED, head=head, group_size=K)
    assert bound_by_layers(config, K) == pytest.approx(K * 4 / (4 + own_layers(K)))


def test_weights_of_the_other_heads():
    V, D, K = 6565, 2048, 3
    projection = D * V + V
    own = {
        "ntp": OUT,
        "group_linear": (K * D * D + D) + D + K * projection,
        "group_trans": (K * D * D + D) + N_LAYERS * LAYER + OUT,
        "mtp_parallel_linear": D + K * projection,
        "mtp_deepseek": OUT + 2 * (LAYER + 3 * D + 2 * D * D + projection),  # the projection is shared but read again
    }
    for head, weights in own.items():
        config = replace(PUBLISHED, head=head, group_size=K)
        assert step_cost(config, 1 if head == "ntp" else K).weights == 4 * LAYER + weights, head


def test_every_head_has_bounds_no_higher_than_its_tokens_per_step():
    for head in HEADS:
        K = 1 if head == "ntp" else 3
        config = TalkerConfig(llm_dim=32, dim=16, ffn_dim=32, n_heads=2, n_units=50, head=head, group_size=3)
        for bound in (bound_by_layers, bound_by_weights):
            assert 1 <= bound(config, K) <= K


def test_what_a_head_cannot_say_has_no_bound():
    for head, K in (("ntp", 2), ("group_linear", 2), ("group_trans", 5), ("mtp_vocalnet", 7), ("mtp_vocalnet", 0)):
        with pytest.raises(ValueError, match=f"no speedup at {K}"):
            bound_by_layers(replace(PUBLISHED, head=head), K)


def test_bounds_of_a_run_are_those_of_its_steps():
    fixed = [stat(k) for _ in range(4) for k in range(3)]
    assert bounds_of(PUBLISHED, fixed)["layers"] == pytest.approx(bound_by_layers(PUBLISHED, 3))
    assert bounds_of(PUBLISHED, fixed)["weights"] == pytest.approx(bound_by_weights(PUBLISHED, 3))
    assert nominal(fixed) == 3
    half = [stat(0), stat(1), stat(2, kept=False), stat(0), stat(1, kept=False)]  # steps of three and of two heads
    assert nominal(half) == 1.5
    assert bounds_of(PUBLISHED, half)["layers"] == pytest.approx(3 * 4 / (6 + 5))


def test_a_run_of_groups_has_a_bound_too():
    config = replace(PUBLISHED, head="group_trans")
    said = [stat(k) for _ in range(2) for k in range(3)]
    assert bounds_of(config, said)["layers"] == pytest.approx(bound_by_layers(config, 3))


def test_measured_compares_speeds_by_their_medians():
    assert tokens_per_second(30, [1.0, 3.0, 2.0]) == 15
    assert measured(30.0, 20.0) == 1.5
    with pytest.raises(ValueError, match="at least one"):
        tokens_per_second(10, [])
    with pytest.raises(ValueError, match="no speedup"):
        bounds_of(PUBLISHED, [])
