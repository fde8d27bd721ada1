"""A tiny set in OpenAudioBench's format, and a stub of an OpenAI-compatible server."""

from __future__ import annotations

import csv
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import tone

from vocalnet.audio import write_wav

COLUMNS = {
    "alpaca_eval": (("instruction",), [("Say something about cats.",), ("Write a haiku.",)]),
    "llama_questions": (("Questions", "Answer"), [("What rings?", "A voice"), ("What is heavy?", "Lead")]),
    "trivia_qa": (
        ("question", "answer_value", "answer_normalized_aliases"),
        [("How many hertz?", "440", "['four hundred and forty hertz', '440 hertz']"), ("Who?", "Lear", "['lear']")],
    ),
    "web_questions": (
        ("question", "answers"),
        [("What has it?", "['voice' 'a tone']"), ("Where?", '["France", "the \\"West\\""]'), ("When?", "['1066']")],
    ),
}


@pytest.fixture
def bench(tmp_path) -> Path:
    """Nine questions in four sets; the fake model's answer is right for two of the seven with accepted answers."""
    for name, (columns, rows) in COLUMNS.items():
        folder = tmp_path / "bench" / "eval_datas" / name
        (folder / "audios").mkdir(parents=True)
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, "audio_filename"])
            for n, row in enumerate(rows):
                write_wav(folder / "audios" / f"{name}_{n}.wav", tone(0.3), 16_000)
                writer.writerow([*row, f"{name}_{n}.wav"])
    return tmp_path / "bench"


@pytest.fixture
def server():
    """A judge that rates 7, finds "voice" and "hertz" right, and does as its `replies` say before that."""
    state = SimpleNamespace(requests=[], replies=[])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append((self.path, dict(self.headers), body))
            prompt = body["messages"][0]["content"]
            reply: Any = state.replies.pop(0) if state.replies else None
            if isinstance(reply, int):
                self.send_response(reply)
                self.end_headers()
                return
            if reply is None and "1 for yes" in prompt:
                accepted = prompt.split("Accepted answers: ")[1].split("\n")[0]
                reply = "1" if "voice" in accepted or "hertz" in accepted else "0"
            content = {"choices": [{"message": {"content": reply or "Score: 7"}}], "model": "stub-1"}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()
