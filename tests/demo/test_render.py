"""Pieces of HTML: escaped, and with the right figures."""

from __future__ import annotations

from demo import render


def test_everything_is_escaped():
    evil = "<script>"
    pieces = [
        render.header(evil, evil),
        render.status(evil),
        render.placeholder(evil),
        render.figures([(evil, evil, evil)], {"total": 1.0}, [evil]),
        render.rows({evil: [evil, {evil: evil}], "nested": {evil: evil}}),
    ]
    assert not any(evil in piece for piece in pieces)


def test_stages_add_up_to_the_total():
    html = render.figures([], {"encoder": 0.1, "llm": 0.25, "total": 0.5, "first_text": 0.2})
    assert "100 ms" in html
    assert "250 ms" in html
    assert "Everything else" in html
    assert "150 ms" in html
    assert "500 ms" in html
    assert "Talker" not in html


def test_a_problem_is_announced():
    assert 'role="alert"' in render.status("Too short.", "problem")
    assert 'role="status"' in render.status("Working", "busy")
