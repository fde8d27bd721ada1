"""The app as it is started, with the embedded model: a spoken question, a spoken answer."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from demo.examples import EXAMPLES

ROOT = Path(__file__).parents[2]
START_S = 120


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
    server.wait(10)


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
