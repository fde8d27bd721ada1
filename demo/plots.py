"""Figures: pure functions from plain data to matplotlib figures, without pyplot, so that threads do not share one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from vocalnet.attention import AnswerAttention
from vocalnet.metrics.playback import Playback

TEAL, SLATE, RED = "#0d9488", "#64748b", "#dc2626"
COLOURS = (TEAL, "#7c3aed", "#d97706", "#2563eb", "#be185d", "#4d7c0f")
MARKERS = "osD^vP"
MARKER_PT = 3.5  # half a marker's width
# Where a point's name may stand, nearest first: the side, and points to that side and upwards.
LABEL_PLACES = tuple(
    (side, 6 + abs(up) // 4, up) for up in (0, 8, -8, 16, -16, 25, -25, 35, -35, 45) for side in (1, -1)
)
NAME: dict[str, Any] = {"fontsize": 7, "color": SLATE}
DPI = 160
PALETTE = 256  # colours of a PNG file
HEAT = LinearSegmentedColormap.from_list("teal", ["white", TEAL]).with_extremes(bad="#e2e8f0")
MEASURES = {"max_prob": "maximum probability", "entropy": "entropy (nats)"}


def pareto(cells: Sequence[Mapping[str, Any]], ceilings: Mapping[str, float] | None = None) -> Figure:
    """Returns WER against tokens per second, one point a cell, and the front of those that no other beats in both.

    Args:
        cells: {"cell", "policy", "tokens_per_s", "wer", "ci95"} each, rates as fractions; "ci95" may be None.
        ceilings: names and WERs of what no cell can be expected to beat.
    """
    figure = Figure(figsize=(6.8, 4.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.margins(x=0.15)
    policies = list(dict.fromkeys(cell["policy"] for cell in cells))
    for n, policy in enumerate(policies):
        own = [cell for cell in cells if cell["policy"] == policy]
        axes.errorbar(
            [cell["tokens_per_s"] for cell in own],
            [100 * cell["wer"] for cell in own],
            yerr=_whiskers(own),
            fmt=MARKERS[n % len(MARKERS)],
            color=COLOURS[n % len(COLOURS)],
            elinewidth=0.8,
            capsize=2,
            label=policy,
        )
    front = pareto_front(cells)
    axes.plot([cell["tokens_per_s"] for cell in front], [100 * cell["wer"] for cell in front], color=SLATE, lw=0.8)
    for n, (name, wer) in enumerate(sorted((ceilings or {}).items(), key=lambda ceiling: ceiling[1])):
        axes.axhline(100 * wer, color=SLATE, lw=0.8, ls=":")
        side = "bottom" if n else "top"  # the lowest's name below its line: others may be just above
        axes.annotate(name, (1, 100 * wer), xycoords=("axes fraction", "data"), ha="right", va=side, fontsize=7)
    low, high = axes.get_ylim()
    axes.set_ylim(bottom=max(low, -0.04 * high))  # rates are not negative; a marker at 0 stays whole
    _label(axes, "speech tokens per second (talker)", "word error rate (%)")
    if policies:
        axes.legend(frameon=False, fontsize=8)
    _name_points(axes, cells)
    return figure


def _name_points(axes: Axes, cells: Sequence[Mapping[str, Any]]) -> None:
    """Writes each cell's name where it covers least: markers, whiskers, the legend and the names before it."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # the layout decides where things are
    pixels = figure.dpi / 72
    legend = axes.get_legend()
    taken = [text.get_window_extent() for text in axes.texts] + ([legend.get_window_extent()] if legend else [])
    for cell in cells:
        low, high = cell["ci95"] or (cell["wer"], cell["wer"])
        (x, y), (_, bottom), (_, top) = axes.transData.transform(
            [(cell["tokens_per_s"], 100 * rate) for rate in (cell["wer"], low, high)]
        )
        half = MARKER_PT * pixels
        taken += [Bbox([[x - half, y - half], [x + half, y + half]]), Bbox([[x - 1, bottom], [x + 1, top]])]
    for cell in sorted(cells, key=lambda cell: cell["tokens_per_s"]):
        place = (cell["tokens_per_s"], 100 * cell["wer"])
        name = axes.annotate(cell["cell"], place, va="center", **NAME)
        extent = name.get_window_extent()
        name.remove()
        boxes = [
            extent.translated(pixels * side * along - (side < 0) * extent.width, pixels * up)
            for side, along, up in LABEL_PLACES
        ]
        best = min(range(len(boxes)), key=lambda n: _covered(boxes[n], axes.bbox, taken) + n)
        taken.append(boxes[best])
        side, along, up = LABEL_PLACES[best]
        axes.annotate(
            cell["cell"],
            place,
            xytext=(side * along, up),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            arrowprops={"arrowstyle": "-", "color": SLATE, "lw": 0.3, "shrinkA": 0, "shrinkB": MARKER_PT},
            **NAME,
        )


def _covered(box: Bbox, inside: Bbox, taken: Sequence[Bbox]) -> float:
    """Returns how much of a box is outside of a frame or lies on others, in square pixels."""
    shared = [Bbox.intersection(box, other) for other in (inside, *taken)]
    areas = [0.0 if common is None else common.width * common.height for common in shared]
    return box.width * box.height - areas[0] + sum(areas[1:])


def pareto_front(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the cells that no other beats in both WER and tokens per second, slowest first."""
    front: list[Mapping[str, Any]] = []
    for cell in sorted(cells, key=lambda cell: (-cell["tokens_per_s"], cell["wer"])):
        if not front or cell["wer"] < front[-1]["wer"]:
            front.append(cell)
    return front[::-1]


def speedups(cells: Sequence[Mapping[str, Any]]) -> Figure:
    """Returns three bars a cell: nominal speedup, the bound on it by weights read, and measured.

    Args:
        cells: {"cell", "nominal", "bound_weights", "measured"} each; None where there is none.
    """
    figure = Figure(figsize=(6.4, 1.1 + 0.62 * max(len(cells), 1)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    bars = {
        "nominal": ("#cbd5e1", "nominal"),
        "bound_weights": ("#94a3b8", "bound by weights"),
        "measured": (TEAL, "measured"),
    }
    for n, (name, (colour, label)) in enumerate(bars.items()):
        places = [place + 0.26 * (n - 1) for place in range(len(cells))]
        values = [cell[name] or 0 for cell in cells]
        drawn = axes.barh(places, values, height=0.24, color=colour, label=label)
        axes.bar_label(drawn, [f"{v:.2f}" if v else "" for v in values], padding=3, fontsize=8, color=SLATE)
    axes.axvline(1, color=SLATE, lw=0.8, ls=":")
    axes.set_yticks(range(len(cells)), [cell["cell"] for cell in cells], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    _label(axes, "speedup over one token per step (×)", "")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def png(figure: Figure) -> bytes:
    """Returns a figure as a file; with a palette, which is all that a drawing needs, it is a third as long."""
    drawn, data = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    return data.getvalue()


def token_histograms(summary: Mapping[str, Any], title: str = "", measures: Sequence[str] = tuple(MEASURES)) -> Figure:
    """Returns the paper's Figure 3 for every head: maximum probability and entropy, dashed lines at the means.

    `summary`: as `vocalnet.metrics.tokens.token_summary` makes it.
    """
    figure = Figure(figsize=(4.8 * len(measures), 3.6), dpi=DPI, layout="constrained")
    heads = [head for head in summary["heads"] if head["n"]]
    for axes, name in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        edges = summary["edges"][name]
        for n, head in enumerate(heads):
            colour = COLOURS[n % len(COLOURS)]
            shares = [count / head["n"] for count in head[name]["counts"]]
            what = f"head {head['head']}"
            mean = head[name]["mean"]
            axes.stairs(shares, edges, color=colour, fill=n == 0, alpha=0.35 if n == 0 else 1.0)
            axes.axvline(mean, color=colour if len(heads) > 1 else RED, ls="--", lw=1, label=f"{what}: {mean:.2f}")
        _label(axes, MEASURES[name], "share of tokens")
        if heads:
            axes.legend(frameon=False, fontsize=8, title="mean")
    if title:
        figure.suptitle(title)
    return figure


def waterfall(stages: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> Figure:
    """Returns the stages one after another up to the first audio: medians with whiskers to p90, and cold in grey.

    Args:
        stages: {"n", "p50", "p90", "cold"} of each in seconds, the whole ("sum") last; "cold" may be None.
        labels: their names.
    """
    figure = Figure(figsize=(6.8, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    warm = "warm, median" if stages["sum"]["n"] > 1 else "this answer"
    kinds = [("cold", "#cbd5e1", "cold"), ("p50", TEAL, warm)]
    kinds = [kind for kind in kinds if stages["sum"][kind[0]] is not None]
    height = 0.8 / len(kinds)
    for n, (kind, colour, name) in enumerate(kinds):
        begun = 0.0
        for place, (stage, numbers) in enumerate(stages.items()):
            length = 1000 * numbers[kind]
            start = 0.0 if stage == "sum" else begun
            y = place + (n - (len(kinds) - 1) / 2) * height
            drawn = axes.barh(y, length, left=start, height=0.9 * height, color=colour, label=None if place else name)
            spread = 1000 * (numbers["p90"] - numbers["p50"]) if kind == "p50" else 0.0
            if spread > 0:
                axes.errorbar(start + length, y, xerr=[[0.0], [spread]], color=SLATE, elinewidth=0.8, capsize=2)
            axes.bar_label(drawn, [f"{length:.1f}"], padding=4 if not spread else 10, fontsize=7, color=SLATE)
            begun += length
    axes.set_yticks(range(len(stages)), [labels[stage] for stage in stages], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    _label(axes, "milliseconds since the call", "")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def playback(heard: Playback) -> Figure:
    """Returns the seconds of an answer that are there and that have been heard, over the time since the call."""
    figure = Figure(figsize=(6.8, 3.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    produced, played = heard.produced(), heard.played()
    end_s = played[-1][0] if played else 0.0
    there = [*produced, (end_s, produced[-1][1])] if produced else []
    for points, colour, name in ((there, TEAL, "produced"), (played, "#7c3aed", "played")):
        axes.plot([t_s for t_s, _ in points], [sound_s for _, sound_s in points], color=colour, label=name)
    for start, gap in zip(heard.starts_s[1:], heard.gaps_s, strict=True):
        if gap > 0:
            axes.axvspan(start - gap, start, color=RED, alpha=0.2, lw=0)
    _label(axes, "seconds since the call", "seconds of sound")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    if there:
        axes.legend(frameon=False, fontsize=8)
    return figure


def heads(seen: AnswerAttention) -> Figure:
    """Returns the attention of every layer and head: text down, speech to the right, forbidden cells grey."""
    weights = np.sqrt(seen.attention.text.float().cpu().numpy())  # (layers, H, L_s, L_t), small ones made visible
    n_layers, n_heads, _, n_text = weights.shape
    shut = ~seen.attention.visible[:, :n_text].cpu().numpy()
    figure = Figure(figsize=(2.1 * n_heads, 1.7 * n_layers), dpi=DPI, layout="constrained")
    for layer, row in enumerate(figure.subplots(n_layers, n_heads, squeeze=False)):
        for head, axes in enumerate(row):
            axes.imshow(np.ma.masked_where(shut, weights[layer, head]).T, cmap=HEAT, vmin=0, vmax=1, aspect="auto")
            axes.set_title(f"{layer + 1}.{head + 1}: {seen.scores[layer, head]:.2f}", fontsize=7)
            axes.set_xticks([])
            axes.set_yticks(range(n_text) if head == 0 else [], seen.pieces if head == 0 else [], fontsize=5)
    return figure


def durations(histogram: Mapping[str, Sequence[float]]) -> Figure:
    """Returns how many questions and answers last how long: {"edges_s", "questions", "answers"}, counts per bin."""
    figure = Figure(figsize=(6.4, 3.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for name, colour in (("questions", SLATE), ("answers", TEAL)):
        if any(histogram[name]):
            axes.stairs(histogram[name], histogram["edges_s"], color=colour, fill=True, alpha=0.5, label=name)
    axes.legend(frameon=False, fontsize=8)
    _label(axes, "duration (s)", "entries")
    return figure


def _whiskers(cells: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Returns how far the intervals reach below and above the rates, in percent."""
    spans = [cell["ci95"] or (cell["wer"], cell["wer"]) for cell in cells]
    below = [100 * max(cell["wer"] - low, 0) for cell, (low, _) in zip(cells, spans, strict=True)]
    above = [100 * max(high - cell["wer"], 0) for cell, (_, high) in zip(cells, spans, strict=True)]
    return [below, above]


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
