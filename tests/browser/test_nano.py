"""The app as it is started, with the embedded model: a spoken question, a spoken answer."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from playwright.sync_api import expect

from demo.examples import EXAMPLES

ROOT = Path(__file__).parents[2]
START_S = 120
# question-0078 of nano's held-out set (`vocalnet eval --set heldout`): "Can you tell me the capital of Austria?"
HELD_OUT = Path(__file__).parent / "heldout-question.wav"
PAUSE_S = 1.5  # of silence before the question, while the browser opens the microphone


@pytest.fixture(scope="module")
def nano_url() -> Iterator[str]:
    """`python app.py --model nano` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    server = subprocess.Popen([sys.executable, "app.py", "--model", "nano", "--port", str(port)], cwd=ROOT)
    deadline_s = time.monotonic() + START_S
    while not is_up(url):
        assert server.poll() is None, "app.py ended early"
        assert time.monotonic() < deadline_s, "app.py did not start"
        time.sleep(0.5)
    yield url
    server.terminate()
    server.wait(60)


def is_up(url: str) -> bool:
    """Whether GET /health answers."""
    try:
        with urllib.request.urlopen(f"{url}health", timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


def test_a_spoken_question_gets_a_spoken_answer(page, nano_url):
    page.goto(nano_url)
    page.get_by_text(EXAMPLES[0].text).locator("visible=true").click()
    page.get_by_role("button", name="Answer", exact=True).locator("visible=true").click()
    expect(page.locator(".vn-done").locator("visible=true")).to_be_visible(timeout=60_000)
    assert page.locator(".vn-answer textarea").locator("visible=true").input_value().strip()
    page.wait_for_function("window.played.some(audio => audio.currentTime > 0.3)")


def test_what_the_talker_looked_at(page, nano_url):
    page.goto(f"{nano_url}?tab=attention")
    page.get_by_role("button", name="Look", exact=True).click()
    heads = page.locator(".vn-attention .vn-head")
    expect(heads.first).to_be_visible(timeout=120_000)
    said = page.locator(".vn-status").locator("visible=true")
    expect(said).to_contain_text("“")
    labels = page.locator(".vn-attention .vn-piece")
    n_pieces = labels.count()
    expect(labels.first).to_contain_text("⟨begin⟩")
    expect(labels.last).to_contain_text("⟨end⟩")
    row = page.get_by_role("slider", name="Speech row", exact=True)
    row.fill("0")
    expect(page.locator(".vn-attention [data-part=which]")).to_contain_text("Speech row 0 (start):")
    shut = page.locator(".vn-attention .vn-shut.vn-piece")
    assert 0 < shut.count() < n_pieces  # of a streamed answer, the start sees the first chunk of text
    row.fill(row.get_attribute("max"))
    expect(page.locator(".vn-attention [data-part=which]")).not_to_contain_text("row 0 (start)")
    expect(shut).to_have_count(0)
    heads.last.click()
    expect(heads.last).to_have_attribute("aria-pressed", "true")
    page.get_by_label("A run of this visit").click()
    page.get_by_role("option", name=re.compile("^1 · ")).click()
    expect(said).to_contain_text("a run of nano", timeout=60_000)


def test_attention_for_programs(nano_url):
    client = Client(nano_url, verbose=False, download_files=False)
    clip = handle_file(EXAMPLES[0].path)
    found, _ = client.predict(clip, "mtp_vocalnet", "streaming", api_name="/attention")
    weights, visible = np.array(found["weights"]), np.array(found["visible"])
    n_rows = 1 + len(found["speech_tokens"])
    assert weights.shape == (*np.shape(found["scores"]), n_rows, len(found["pieces"]))
    assert visible.shape == weights.shape[2:]
    assert (weights[..., visible == 0] == 0).all()
    assert (visible == 0).any()
    assert "".join(found["pieces"][1:-1]).strip() == found["text"].strip()


def test_push_to_talk_asks_a_held_out_question(listening_page, nano_url, tmp_path):
    samples, rate_hz = soundfile.read(HELD_OUT)
    heard = np.concatenate([np.zeros(round(PAUSE_S * rate_hz)), samples])
    soundfile.write(tmp_path / "question.wav", heard, rate_hz, subtype="PCM_16")
    page = listening_page(tmp_path / "question.wav")
    page.goto(f"{nano_url}?tab=stream")
    expect(page.get_by_role("button", name="Hold to talk")).to_be_visible()
    page.keyboard.down("Space")
    expect(page.locator(".vn-talk .vn-status")).to_contain_text("Listening")
    page.wait_for_timeout(1000 * (soundfile.info(HELD_OUT).duration + PAUSE_S + 0.3))
    page.keyboard.up("Space")
    expect(page.locator(".vn-done").locator("visible=true")).to_contain_text("Answered", timeout=120_000)
    expect(page.locator(".vn-said")).to_contain_text("Vienna")
    expect(page.get_by_label("The answer")).to_be_visible(timeout=60_000)  # it has been heard to its end
    assert page.locator(".vn-turn .vn-spoken").count() == page.locator(".vn-said span").count()
