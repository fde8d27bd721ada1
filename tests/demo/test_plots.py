"""Figures: what is drawn follows from the data; nothing is compared pixel by pixel."""

from __future__ import annotations

import io
import itertools

import pytest
from grid_reports import grid_report
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from demo.plots import pareto, pareto_front, png, speedups, token_histograms
from vocalnet.metrics.tokens import token_summary
from vocalnet.report import pareto_points


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_pareto_draws_every_cell_with_its_interval():
    points = pareto_points(grid_report())
    figure = pareto(points, {"source": 0.01})
    (axes,) = figure.axes
    assert {point["cell"] for point in points} < set(texts(axes))
    assert "source" in texts(axes)
    policies = [text.get_text() for text in axes.get_legend().get_texts()]
    assert policies == ["fixed", "top_n", "greedy_verify"]
    image = io.BytesIO()
    figure.savefig(image, format="png")
    assert image.getvalue().startswith(b"\x89PNG")


def test_names_of_near_points_do_not_lie_on_each_other():
    near = [(2200, 0.54), (2210, 0.58), (2240, 0.585), (2250, 0.55), (2800, 0.57), (2900, 0.59), (5000, 0.7)]
    cells = [
        {
            "cell": f"decoder_{n} 1",
            "policy": "fixed",
            "tokens_per_s": speed,
            "wer": wer,
            "ci95": (wer - 0.05, wer + 0.05),
        }
        for n, (speed, wer) in enumerate(near)
    ]
    (axes,) = pareto(cells).axes
    axes.get_figure().draw_without_rendering()
    names = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
    assert set(names) == {cell["cell"] for cell in cells}
    assert not [pair for pair in itertools.combinations(names, 2) if Bbox.intersection(*(names[n] for n in pair))]


def test_pareto_front_holds_what_no_other_beats():
    speeds_and_rates = [(500, 0.05), (400, 0.06), (800, 0.10), (1000, 0.10), (1200, 0.30), (600, 0.05)]
    cells = [{"cell": i, "tokens_per_s": speed, "wer": wer} for i, (speed, wer) in enumerate(speeds_and_rates)]
    assert [cell["cell"] for cell in pareto_front(cells)] == [5, 3, 4]


def test_pareto_without_intervals_or_cells():
    assert pareto([{"cell": "a", "policy": "fixed", "tokens_per_s": 1.0, "wer": 0.1, "ci95": None}]).axes
    assert pareto([]).axes


def test_speedups_draw_three_bars_a_cell():
    cells = [{"cell": "a 3", "nominal": 2.8, "bound_weights": 1.6, "measured": 1.4}]
    cells += [{"cell": "b 1", "nominal": 1.0, "bound_weights": 1.0, "measured": None}]
    (axes,) = speedups(cells).axes
    assert [patch.get_width() for patch in axes.patches] == [2.8, 1.0, 1.6, 1.0, 1.4, 0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a 3", "b 1"]
    assert png(speedups(cells)).startswith(b"\x89PNG")


def test_histograms_of_every_head_with_their_means():
    summary = grid_report()["cells"][2]["token_stats"]
    left, right = token_histograms(summary, "mtp_vocalnet").axes
    assert [len(axes.patches) for axes in (left, right)] == [3, 3]
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "head 0: 1.00",
        "head 1: 2.00",
        "head 2: 3.00",
    ]
    assert left.patches[0].get_data().values.sum() == pytest.approx(1)  # shares


def test_no_tokens_make_an_empty_figure():
    assert len(token_histograms(token_summary([])).axes) == 2
