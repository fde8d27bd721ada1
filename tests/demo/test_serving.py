"""The server's manners: a short waiting line, eight programs at once, and an end that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from serving import serve_fake

from demo.examples import EXAMPLES
from demo.page import launch
from demo.state import App
from demo.ui import build

ROOT = Path(__file__).parents[2]
CLIP = str(EXAMPLES[0].path)
FAKE_APP = """
import sys
sys.path[:0] = ["tests"]
from fakes import JUDGES, FakeModel
from demo.page import serve
from demo.state import App
from demo.ui import build
app = App("fake", FakeModel(), load_s=1.5, judges=JUDGES)
app.warm_up()
serve(build, app)
"""


def live(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}live") as response:
        return json.load(response)


def test_a_line_of_two_says_that_it_is_full():
    with serve_fake(queue=2) as served:
        client = Client(served.url, verbose=False)
        jobs = [client.submit(handle_file(CLIP), "slowly", api_name="/speech_to_text") for _ in range(8)]
        refused = next(as_completed([job.future for job in jobs], timeout=30)).exception()
        for job in jobs:
            job.cancel()
        assert "Queue is full" in str(refused)
        assert live(served.url)["jobs"] <= 2  # those under way


def test_fifty_answers_of_eight_programs_are_those_of_one(tiny_model, tmp_path):
    """Over the API, from a real model with random weights."""
    rng = np.random.default_rng(0)
    clips = [tmp_path / f"{number}.wav" for number in range(5)]
    for clip in clips:
        soundfile.write(clip, 0.1 * rng.standard_normal(8000), 16_000)
    app = App("tiny", tiny_model, load_s=0.0)
    blocks = build(app)
    url = launch(blocks, app)

    def ask(client: Client, number: int) -> tuple[str, list[int]]:
        asked = (handle_file(clips[number % 5]), "mtp_vocalnet", 1 + number % 3, "fixed", 0.7, number)
        _, answer = client.predict(*asked, api_name="/speech_to_speech")
        return answer["text"], answer["speech_tokens"]

    try:
        clients = [Client(url, verbose=False, download_files=tmp_path) for _ in range(8)]
        alone = [ask(clients[0], number) for number in range(10)]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda number: ask(clients[number % 8], number % 10), range(50)))
        assert [alone[number % 10] for number in range(50)] == together
        assert len({tuple(tokens) for _, tokens in alone}) > 5
        assert live(url)["jobs"] == 0
    finally:
        blocks.close()


@pytest.fixture(autouse=True)
def _short_speech(monkeypatch):
    """Random weights do not end by themselves."""
    monkeypatch.setattr("vocalnet.session.TOKENS_PER_TEXT", 0)
    monkeypatch.setattr("vocalnet.session.SPARE_TOKENS", 30)


def test_sigterm_ends_the_server_and_leaves_no_file(tmp_path):
    command = [sys.executable, "-c", FAKE_APP]
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        assert server.stdout is not None
        url = next(line.split()[-1] for line in server.stdout if line.startswith("The page is on"))
        client = Client(url, verbose=False, download_files=False)
        client.predict(handle_file(CLIP), "mtp_vocalnet", 2, "fixed", 0.5, 7, api_name="/speech_to_speech")
        client.submit(handle_file(CLIP), "slowly", api_name="/speech_to_text")  # still under way at the end
        assert any(path.is_file() for path in tmp_path.rglob("*"))
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
    finally:
        if server.poll() is None:
            server.kill()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
