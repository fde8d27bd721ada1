"""The page as a visitor meets it: what loads, what can be pressed, what is said, what is heard."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import soundfile
from browser_helpers import CLIPPED, button, open_page, status, upload, wait_until
from fakes import ANSWER, SAMPLE_RATE_HZ, tone
from playwright.sync_api import Locator, Page, expect

from demo.answering import UNEXPECTED
from demo.examples import EXAMPLES
from demo.job import BUSY, STOPPED
from demo.question import READY

TABS = (
    "Speech to text",
    "Streaming",
    "Speedup lab",
    "Token statistics",
    "Latency",
    "Attention",
    "About",
    "Speech to speech",
)


def answer_text(page: Page) -> Locator:
    """The text of the answer."""
    return page.locator(".vn-answer textarea").locator("visible=true")


def ask(page: Page, prompt: str = "") -> None:
    """Picks an example and presses Answer."""
    page.get_by_text(EXAMPLES[0].text).locator("visible=true").click()
    page.get_by_role("textbox", name=re.compile("^Prompt")).locator("visible=true").fill(prompt)
    button(page, "Answer").click()


def test_the_page_loads_from_here_alone_and_without_errors(page, served):
    outside, errors = [], []
    page.on("request", lambda r: None if r.url.startswith((served.url, "data:", "blob:")) else outside.append(r.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    open_page(page, served.url)
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
    ask(page)
    expect(status(page)).to_contain_text("Answered")
    assert (outside, errors) == ([], [])


def test_an_uploaded_clip_is_answered_in_text_and_sound(page, served):
    open_page(page, served.url)
    expect(status(page)).to_have_text(READY)
    expect(button(page, "Answer")).to_be_disabled()
    expect(button(page, "Stop")).to_be_disabled()
    upload(page, EXAMPLES[2].path)
    button(page, "Answer").click()
    expect(status(page)).to_contain_text("Answered")
    expect(answer_text(page)).to_have_value(ANSWER)
    page.wait_for_function("window.played.some(audio => audio.currentTime > 0.3)")
    link = page.get_by_role("link", name="Download").last.get_attribute("href")
    samples, rate_hz = soundfile.read(io.BytesIO(page.request.get(link).body()), dtype="float32")
    assert rate_hz == SAMPLE_RATE_HZ
    np.testing.assert_allclose(samples, tone(1.6), atol=2e-3)
    page.get_by_role("button", name="Speech tokens (40)").click()
    for figure in ("First audio", "Real-time factor", "Talker (speech tokens)", "160 ms"):
        expect(page.get_by_text(figure).locator("visible=true")).to_have_count(1)
    expect(page.get_by_text("This answer comes from a test tone.")).to_be_visible()
    expect(button(page, "Answer")).to_be_enabled()
    expect(button(page, "Stop")).to_be_disabled()


def test_an_answer_without_sound_is_shown(page, served):
    open_page(page, served.url)
    ask(page, "mute")
    expect(status(page)).to_contain_text("Answered")
    expect(page.get_by_text("Whole answer")).to_be_visible()
    expect(page.get_by_text("Real-time factor").locator("visible=true")).to_have_count(0)


def test_text_alone(page, served):
    open_page(page, served.url, "?tab=s2t")
    expect(page.get_by_role("tab", name="Speech to text")).to_have_attribute("aria-selected", "true")
    ask(page, "in one word")
    expect(answer_text(page)).to_have_value(ANSWER)
    expect(page.get_by_text("Text speed")).to_be_visible()
    assert served.model.requests[-1]["speech"] is False
    assert served.model.requests[-1]["prompt"] == "in one word"


def test_a_recorded_question_arrives(page, served):
    open_page(page, served.url)
    button(page, "Record").click()
    page.wait_for_timeout(1500)
    button(page, "Stop").first.click()
    button(page, "Answer").click()
    expect(answer_text(page)).to_have_value(ANSWER)
    recorded = soundfile.info(served.model.requests[-1]["audio"])
    assert recorded.samplerate == SAMPLE_RATE_HZ
    assert 0.8 < recorded.duration < 3.0


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("text.wav", lambda path: path.write_text("not audio"), "This file cannot be read as audio."),
        (
            "short.wav",
            lambda path: soundfile.write(path, tone(0.05), SAMPLE_RATE_HZ),
            "The clip is too short (0.05 s).",
        ),
        ("quiet.wav", lambda path: soundfile.write(path, np.zeros(16_000), SAMPLE_RATE_HZ), "The recording is silent"),
    ],
)
def test_a_bad_clip_gets_a_sentence(page, served, tmp_path, name, write, sentence):
    path = tmp_path / name
    write(path)
    open_page(page, served.url)
    upload(page, path)
    if name != "quiet.wav":  # what the header tells is said at once
        expect(status(page)).to_contain_text(sentence)
    button(page, "Answer").click()
    said = page.locator(".validation-error, .vn-problem").get_by_text(sentence)
    expect(said.locator("visible=true").first).to_be_visible()
    expect(status(page)).not_to_contain_text("busy")
    expect(page.get_by_text("Traceback")).to_have_count(0)
    expect(button(page, "Answer")).to_be_enabled()
    expect(button(page, "Stop")).to_be_disabled()


def test_an_unexpected_error_shows_nothing_of_the_server(page, served):
    open_page(page, served.url)
    ask(page, "crash")
    expect(status(page)).to_have_text(UNEXPECTED)
    expect(page.get_by_text("secret")).to_have_count(0)
    ask(page)
    expect(status(page)).to_contain_text("Answered")


def test_stop_ends_the_answer(page, served):
    open_page(page, served.url)
    ask(page, "slowly")
    expect(status(page)).to_contain_text("Writing")
    expect(button(page, "Answer")).to_be_disabled()
    button(page, "Stop").click()
    expect(status(page)).to_have_text(STOPPED)
    wait_until(lambda: served.model.n_closed == served.model.n_opened)
    expect(button(page, "Answer")).to_be_enabled()
    expect(button(page, "Stop")).to_be_disabled()
    assert len(answer_text(page).input_value()) < 20 * len(ANSWER)
    ask(page)
    expect(status(page)).to_contain_text("Answered")


def test_a_closed_tab_ends_the_answer(page, served):
    open_page(page, served.url)
    ask(page, "slowly")
    expect(status(page)).to_contain_text("Writing")
    page.close()
    wait_until(lambda: served.model.n_closed == served.model.n_opened)


def test_another_clip_ends_the_answer_to_the_last_one(page, served):
    open_page(page, served.url)
    ask(page, "slowly")
    expect(status(page)).to_contain_text("Writing")
    page.get_by_text(EXAMPLES[3].text).locator("visible=true").click()
    expect(status(page)).to_have_text(re.compile(f"{READY}|{STOPPED}"))
    wait_until(lambda: served.model.n_closed == served.model.n_opened)
    expect(button(page, "Answer")).to_be_enabled()


def test_a_full_line_says_so(page, served):
    open_page(page, served.url)
    page.route("**/gradio_api/queue/join*", refuse_model_calls)
    ask(page)
    expect(status(page)).to_have_text(BUSY)
    expect(button(page, "Answer")).to_be_enabled()


def refuse_model_calls(route):
    """Answers as Gradio does when its queue is full."""
    route.fulfill(status=503, json={"detail": "Queue is full. Max size is 16 and size is 16."})


def test_a_link_selects_tab_and_settings(page, served):
    open_page(page, served.url, "?tab=s2s&decoder=ntp&steps=2")
    expect(page.get_by_label("Decoder")).to_have_value("ntp")
    expect(page.get_by_role("spinbutton", name="Tokens per step")).to_have_value("2")
    open_page(page, served.url, "?tab=about&steps=999")
    expect(page.get_by_role("tab", name="About")).to_have_attribute("aria-selected", "true")


def test_a_tab_left_open_while_another_is_used(page, served):
    """Each tab has its own question, so that an answer in one does not touch the other."""
    open_page(page, served.url)
    ask(page)
    expect(answer_text(page)).to_have_value(ANSWER)
    page.get_by_role("tab", name="Speech to text").click()
    expect(answer_text(page)).to_have_value("")
    expect(button(page, "Answer")).to_be_disabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(page, served, scheme):
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    open_page(page, served.url)
    ask(page)
    expect(status(page)).to_contain_text("Answered")
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(CLIPPED) == []
