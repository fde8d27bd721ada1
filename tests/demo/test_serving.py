"""The server's manners: a short waiting line, eight programs at once, and an end that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fakes import FakeModel
from gradio_client import Client, handle_file
from serving import serve_fake

from demo.examples import EXAMPLES
from demo.page import launch
from demo.soak import memory_mb
from demo.state import App
from demo.ui import build

ROOT = Path(__file__).parents[2]
CLIP = str(EXAMPLES[0].path)
MEMORY_GROWTH = 1.1
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
TINY_APP = """
import sys
sys.path[:0] = ["tests"]
import torch
from conftest import make_tiny_model
from demo.page import serve
from demo.state import App
from demo.ui import build
from vocalnet import session
torch.set_num_threads(1)
session.TOKENS_PER_TEXT, session.SPARE_TOKENS = 0, 30  # random weights do not end by themselves
serve(build, App("tiny", make_tiny_model(), load_s=0.0))
"""


@contextmanager
def running(script: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Runs a server in a process of its own, with its temporary files in `folder`; yields its address, and it."""
    where: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "TMPDIR": str(folder)}}
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, **where)
    try:
        assert server.stdout is not None
        yield next(line.split()[-1] for line in server.stdout if line.startswith("The page is on")), server
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


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


def test_fifty_answers_of_eight_programs_are_those_of_one(tmp_path):
    """Over the API, from a real model with random weights, in as much memory as before."""
    rng = np.random.default_rng(0)
    clips = [tmp_path / f"{number}.wav" for number in range(5)]
    for clip in clips:
        soundfile.write(clip, 0.1 * rng.standard_normal(8000), 16_000)

    def ask(client: Client, number: int) -> tuple[str, list[int]]:
        asked = (handle_file(clips[number % 5]), "mtp_vocalnet", 1 + number % 3, "fixed", 0.7, number)
        _, answer = client.predict(*asked, api_name="/speech_to_speech")
        return answer["text"], answer["speech_tokens"]

    with running(TINY_APP, tmp_path) as (url, server), ThreadPoolExecutor(8) as pool:
        clients = [Client(url, verbose=False, download_files=tmp_path) for _ in range(8)]
        alone = [ask(clients[0], number) for number in range(10)]
        list(pool.map(ask, clients, range(8)))  # a first time for every thread
        before_mb = memory_mb(server.pid)
        together = list(pool.map(lambda number: ask(clients[number % 8], number % 10), range(50)))
        assert live(url)["jobs"] == 0
        assert memory_mb(server.pid) <= MEMORY_GROWTH * before_mb
    assert [alone[number % 10] for number in range(50)] == together
    assert len({tuple(tokens) for _, tokens in alone}) > 5


def test_sigterm_ends_the_server_and_leaves_no_file(tmp_path):
    with running(FAKE_APP, tmp_path) as (url, server):
        client = Client(url, verbose=False, download_files=False)
        client.predict(handle_file(CLIP), "mtp_vocalnet", 2, "fixed", 0.5, 7, api_name="/speech_to_speech")
        client.submit(handle_file(CLIP), "slowly", api_name="/speech_to_text")  # still under way at the end
        assert any(path.is_file() for path in tmp_path.rglob("*"))
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("where", "sentence"), [({"queue": 0}, "at least 1"), ({}, "Choose another --port")])
def test_where_it_cannot_serve_it_says_so(where, sentence):
    app = App("fake", FakeModel(), load_s=0.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ValueError, match=sentence):
            launch(build(app), app, port=other.getsockname()[1], **where)
