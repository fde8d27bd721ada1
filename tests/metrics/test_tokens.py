"""Means and histograms of token statistics, by hand."""

from __future__ import annotations

import json

import pytest

from vocalnet.events import TokenStat
from vocalnet.metrics.tokens import ENTROPY_EDGES, MAX_PROB_EDGES, agreement, token_summary

STATS = [
    TokenStat(0, entropy=1.0, max_prob=0.5, logprob=-1.0),
    TokenStat(1, entropy=3.0, max_prob=0.1, logprob=-3.0, kept=False),
    TokenStat(0, entropy=2.0, max_prob=1.0, logprob=0.0),
    TokenStat(1, entropy=20.0, max_prob=0.3, logprob=-2.0),
]


def test_counts_and_means_by_head():
    found = token_summary(STATS)
    assert (found["n_steps"], found["n_proposed"], found["n_kept"], found["tokens_per_step"]) == (2, 4, 3, 1.5)
    main, module = found["heads"]
    assert (main["head"], main["n"], main["n_kept"], main["kept_share"]) == (0, 2, 2, 1.0)
    assert (module["head"], module["n"], module["n_kept"], module["kept_share"]) == (1, 2, 1, 0.5)
    assert main["entropy"]["mean"] == 1.5
    assert module["max_prob"]["mean"] == pytest.approx(0.2)
    assert module["logprob"]["mean"] == -2.5
    assert found["kept"]["n"] == 3
    assert found["kept"]["max_prob"]["mean"] == pytest.approx(0.6)
    assert found["kept"]["max_prob"]["p50"] == 0.5


def test_histograms_hold_every_token():
    found = token_summary(STATS)
    assert found["edges"]["entropy"] == ENTROPY_EDGES.tolist()
    for row in (*found["heads"], found["kept"]):
        for name, edges in (("entropy", ENTROPY_EDGES), ("max_prob", MAX_PROB_EDGES)):
            assert len(row[name]["counts"]) == len(edges) - 1
            assert sum(row[name]["counts"]) == row["n"]
    assert found["heads"][1]["entropy"]["counts"][-1] == 1  # 20 nats lie beyond the edges
    assert found["heads"][0]["max_prob"]["counts"][-1] == 1


def test_it_is_plain_json_even_of_nothing():
    empty = json.loads(json.dumps(token_summary([])))
    assert empty["heads"] == []
    assert empty["kept"]["entropy"]["mean"] is None
    assert sum(empty["kept"]["entropy"]["counts"]) == 0
    assert json.loads(json.dumps(token_summary(STATS)))["n_kept"] == 3


@pytest.mark.parametrize(
    ("tokens", "reference", "expected"),
    [([1, 2, 3, 4], [1, 2, 3, 4], 1.0), ([1, 2, 3], [1, 9, 3, 4], 0.5), ([], [1], 0.0), ([], [], 1.0)],
)
def test_agreement(tokens, reference, expected):
    assert agreement(tokens, reference) == agreement(reference, tokens) == expected
