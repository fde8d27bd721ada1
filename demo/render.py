"""Small pieces of HTML: header, status line, figures of one answer, tables. Pure functions; every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STAGES = {
    "audio": "Reading the audio",
    "encoder": "Speech encoder",
    "llm": "Language model",
    "talker": "Talker (speech tokens)",
    "vocoder": "Vocoder (waveform)",
}


def header(model: str, device: str) -> str:
    """Returns the page's title, one line of explanation and what is running."""
    return (
        '<header class="vn-header"><div><h1>VocalNet</h1>'
        "<p>Ask aloud. A speech language model hears the question and answers in text and speech.</p></div>"
        f'<div class="vn-chips"><span>{escape(model)}</span><span>{escape(device)}</span></div></header>'
        '<div class="vn-status vn-problem" role="alert" data-part="dropped" hidden><i></i><span></span></div>'
    )


def status(text: str, kind: str = "idle") -> str:
    """Returns the status line; `kind` is "idle", "busy", "done" or "problem"."""
    role = "alert" if kind == "problem" else "status"
    return f'<div class="vn-status vn-{kind}" role="{role}"><i></i><span>{escape(text)}</span></div>'


def placeholder(text: str) -> str:
    """Returns the text that stands where figures will be."""
    return f'<div class="vn-placeholder">{escape(text)}</div>'


def figures(tiles: Sequence[tuple[str, str, str]], timings: Mapping[str, float], warnings: Sequence[str] = ()) -> str:
    """Returns tiles (name, value, unit), a bar per stage (seconds) and the model's warnings."""
    boxes = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small> {escape(unit)}</small></dd></div>"
        for name, value, unit in tiles
    )
    notes = "".join(note(warning) for warning in warnings)
    return f'{notes}<dl class="vn-tiles">{boxes}</dl>{_stages(timings)}'


def _stages(timings: Mapping[str, float]) -> str:
    """Returns one bar per stage that took time; what no stage claims is "Everything else"."""
    shares = {label: timings[key] for key, label in STAGES.items() if timings.get(key, 0.0) > 0.0}
    total_s = timings.get("total", sum(shares.values()))
    if total_s <= 0.0:
        return ""
    other_s = total_s - sum(shares.values())
    if other_s > 0.01 * total_s:
        shares["Everything else"] = other_s
    rows = "".join(
        f'<tr><th scope="row">{label}</th>'
        f'<td class="vn-bar"><i style="width:{min(100.0, 100 * seconds / total_s):.1f}%"></i></td>'
        f"<td>{_milliseconds(seconds)}</td></tr>"
        for label, seconds in shares.items()
    )
    return (
        '<table class="vn-stages"><caption>Time by stage</caption>'
        f'<tbody>{rows}</tbody><tfoot><tr><th scope="row">Total</th><td></td><td>{_milliseconds(total_s)}</td></tr>'
        "</tfoot></table>"
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


def rows(values: Mapping[str, Any]) -> str:
    """Returns a two-column table; lists are joined with commas, mappings become nested tables."""
    body = "".join(
        f'<tr><th scope="row">{escape(str(key)).replace("_", " ")}</th><td>{_cell(value)}</td></tr>'
        for key, value in values.items()
    )
    return f'<table class="vn-rows"><tbody>{body}</tbody></table>'


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return rows(value)
    if isinstance(value, (list, tuple)):
        return escape(", ".join(str(item) for item in value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(str(value))


def table(
    caption: str, headings: Sequence[str], body: Sequence[Sequence[str]], groups: Sequence[tuple[str, int]] = ()
) -> str:
    """Returns a table that scrolls sideways inside its own frame; `groups` are (title, columns) above the headings."""
    over = "".join(f'<th colspan="{n}"{"" if title else " class=vn-none"}>{escape(title)}</th>' for title, n in groups)
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(text)}</td>" for text in rest)}</tr>'
        for first, *rest in body
    )
    return (
        f'<div class="vn-scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table class="vn-table">'
        f"<caption>{escape(caption)}</caption><thead>{f'<tr>{over}</tr>' if over else ''}<tr>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


def note(text: str) -> str:
    """Returns a remark."""
    return f'<p class="vn-note">{escape(text)}</p>'
