"""The protocol of `make soak`: the real app under good, bad and cancelled requests of many programs for a long time.

python -m demo.soak --minutes 30 --out results/soak.json

The app runs as its users start it, in a process of its own; requests come over gradio_client. Every good answer is
compared with the one that the same request got when nobody else asked. Ends with exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from demo.answering import UNEXPECTED
from demo.examples import EXAMPLES
from vocalnet import files
from vocalnet.provenance import provenance

ROOT = Path(__file__).parents[1]
START_S, ANSWER_S, REST_S = 300.0, 120.0, 30.0
SETTLED_S, SAMPLE_S, WINDOW_S = 300.0, 2.0, 60.0  # memory is compared with that after five minutes, over a minute each
GROWTH = 1.05
KINDS = ("good", "good", "good", "bad", "cancelled")  # drawn from
BUSY = "Queue is full"
CACHE = "gradio"  # the name of its folder

Request = tuple[str, tuple[Any, ...]]  # endpoint and arguments


def good_requests(decoder: str) -> list[Request]:
    """Returns requests that have one right answer each."""
    clips = [str(example.path) for example in EXAMPLES]
    asked: list[Request] = [("/speech_to_text", (clip, "")) for clip in clips[:2]]
    asked += [("/speech_to_speech", (clip, decoder, K, "fixed", 0.0, 0)) for clip in clips[:2] for K in (1, 3)]
    return asked + [("/stream", (clip, decoder, 3, "fixed", 0.0, 0)) for clip in clips]


def bad_requests(decoder: str, folder: Path) -> list[Request]:
    """Returns requests that are to be refused in a sentence."""
    (folder / "text.wav").write_text("no sound")
    (folder / "empty.wav").touch()
    clips = [str(folder / "text.wav"), str(folder / "empty.wav")]
    clip = str(EXAMPLES[0].path)
    asked: list[Request] = [("/speech_to_text", (path, "")) for path in clips]
    asked += [("/speech_to_speech", (clip, "nonsense", 1, "fixed", 0.0, 0))]
    return [*asked, ("/speech_to_speech", (clip, decoder, 1, "nonsense", 0.0, 0))]


def essence(answer: Any) -> tuple[str, tuple[int, ...]]:
    """Returns text and speech tokens of what an endpoint gave last.

    Raises:
        ValueError: that is no answer.
    """
    parts = answer if isinstance(answer, tuple | list) else (answer,)
    for part in parts:
        if isinstance(part, dict) and "text" in part:
            return part["text"], tuple(part.get("speech_tokens", ()))
    raise ValueError(f"This is no answer: {answer!r:.200}")


@dataclass
class Visitors:
    """Programs that ask at the same time, and what became of their requests.

    Attributes:
        url: of the app.
        expected: the essence of every good request's answer.
        bad: requests that are to be refused.
        counts: outcomes by name.
        odd: the first few outcomes that should not be.
    """

    url: str
    expected: dict[Request, tuple[str, tuple[int, ...]]]
    bad: list[Request]
    counts: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def visit(self, seed: int, is_over: Callable[[], bool], folder: Path) -> None:
        """Asks one thing after another until it is over."""
        client = Client(self.url, verbose=False, download_files=folder)
        draws = random.Random(seed)
        while not is_over():
            kind = draws.choice(KINDS)
            outcome, remark = getattr(self, f"ask_{kind}")(client, draws)
            with self._lock:
                self.counts[outcome] += 1
                if remark and len(self.odd) < 20:
                    self.odd.append(f"{outcome}: {remark}")

    def ask_good(self, client: Client, draws: random.Random) -> tuple[str, str]:
        """Asks what has an answer: "equal", "different", "busy" or "lost"."""
        request = draws.choice(list(self.expected))
        try:
            given = essence(ask(client, request))
        except Exception as error:  # whatever it is, it is counted
            return ("busy", "") if BUSY in str(error) else ("lost", f"{request}: {error}")
        return ("equal", "") if given == self.expected[request] else ("different", f"{request}: {given}")

    def ask_bad(self, client: Client, draws: random.Random) -> tuple[str, str]:
        """Asks what has none: "refused" in a sentence of its own, "busy", "accepted", or "lost"."""
        request = draws.choice(self.bad)
        try:
            given = ask(client, request)
        except Exception as error:  # whatever it is, it is counted
            if BUSY in str(error):
                return "busy", ""
            is_refused = isinstance(error, AppError | ValueError) and UNEXPECTED not in str(error)
            return ("refused", "") if is_refused else ("lost", f"{request}: {error}")
        return "accepted", f"{request}: {given}"

    def ask_cancelled(self, client: Client, draws: random.Random) -> tuple[str, str]:
        """Asks and does not wait for the end: "cancelled"."""
        endpoint, (clip, *rest) = draws.choice([asked for asked in self.expected if asked[0] == "/stream"])
        job = client.submit(handle_file(clip), *rest, api_name=endpoint)
        time.sleep(draws.uniform(0.0, 1.0))
        job.cancel()
        return "cancelled", ""


def ask(client: Client, request: Request) -> Any:
    """Returns the last answer to a request, also of those that come event by event."""
    endpoint, (clip, *rest) = request
    return client.submit(handle_file(clip), *rest, api_name=endpoint).result(timeout=ANSWER_S)


@contextmanager
def served(model: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Runs the app on a free port with its temporary files in `folder`; yields its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--model", model, "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(folder)})
    url = f"http://127.0.0.1:{port}/"
    try:
        until(lambda: read_json(f"{url}health") is not None or server.poll() is not None, START_S)
        if server.poll() is not None:
            raise ValueError("The app ended before it served a page; its message is above.")
        yield url, server
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


def read_json(url: str) -> Any:
    """Returns the JSON of an address, None if nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)
    except OSError:
        return None


def until(is_so: Callable[[], bool], patience_s: float) -> bool:
    """Waits until something is so; returns whether it was in time."""
    deadline_s = time.monotonic() + patience_s
    while not (found := is_so()) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return found


def memory_mb(pid: int) -> float:
    """Returns what a process holds in memory now, in MB (resident set)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3


def watch(pid: int, duration_s: float) -> list[tuple[float, float]]:
    """Returns (seconds, MB) of a process while it is under way."""
    began, samples = time.monotonic(), []
    while (now := time.monotonic() - began) < duration_s:
        try:
            samples.append((round(now, 1), round(memory_mb(pid), 1)))
        except (OSError, StopIteration):  # it has ended
            return samples
        time.sleep(SAMPLE_S)
    return samples


def memory(samples: list[tuple[float, float]], duration_s: float) -> dict[str, Any]:
    """Returns medians over a minute: after five minutes, or half of a shorter soak, and at the end."""
    settled_s = min(SETTLED_S, duration_s / 2)
    window_s = min(WINDOW_S, settled_s)

    def around(start_s: float) -> float | None:
        values = [mb for at, mb in samples if start_s <= at < start_s + window_s]
        return statistics.median(values) if values else None

    return {
        "settled_after_s": settled_s,
        "settled_mb": around(settled_s),
        "end_mb": around(duration_s - window_s),
        "samples": samples,
    }


def bars(report: dict[str, Any]) -> dict[str, bool]:
    """Returns which bars a report meets."""
    counts, settled, end = report["outcomes"], report["memory"]["settled_mb"], report["memory"]["end_mb"]
    return {
        "no crash": report["exit_code"] == 0,
        "answers as to a single client": counts.get("equal", 0) > 0 and not counts.get("different", 0),
        "none lost": not counts.get("lost", 0),
        "bad requests refused": not counts.get("accepted", 0),
        "memory": settled is not None and end is not None and end <= GROWTH * settled,
        "nothing alive": report["live"] is not None and not any(report["live"].values()),
        "no temporary files": report["temporary_files"] == {"at_rest": 0, "after_the_end": 0},
    }


def soak(model: str, minutes: float, n_clients: int, seed: int = 0) -> dict[str, Any]:
    """Runs the protocol; returns its report."""
    from vocalnet.checkpoint import describe

    decoder, duration_s = describe(model)["decoder"], 60 * minutes
    folder = Path(tempfile.mkdtemp(prefix="vocalnet-soak-"))
    (folder / "server").mkdir()
    (folder / "clients").mkdir()
    try:
        with served(model, folder / "server") as (url, server), ThreadPoolExecutor(n_clients + 1) as pool:
            alone = Client(url, verbose=False, download_files=folder / "clients")
            expected = {request: essence(ask(alone, request)) for request in good_requests(decoder)}
            visitors = Visitors(url, expected, bad_requests(decoder, folder))
            end_s = time.monotonic() + duration_s
            watching = pool.submit(watch, server.pid, duration_s)
            visits = [
                pool.submit(visitors.visit, seed + n, lambda: time.monotonic() > end_s, folder / "clients")
                for n in range(n_clients)
            ]
            for visit in visits:
                visit.result()
            until(lambda: not any((read_json(f"{url}live") or {"none": 1}).values()), REST_S)
            live = read_json(f"{url}live")
            at_rest = len(temporary_files(folder / "server"))
            server.send_signal(signal.SIGTERM)
            exit_code = _exit_code(server)
        left = [path for path in (folder / "server").rglob("*") if path.is_file()]  # gradio's own, too
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report: dict[str, Any] = {
        "soak": model,
        "minutes": minutes,
        "n_clients": n_clients,
        "n_requests": sum(visitors.counts.values()),
        "outcomes": dict(visitors.counts),
        "odd": visitors.odd,
        "memory": memory(watching.result(), duration_s),
        "live": live,
        "temporary_files": {"at_rest": at_rest, "after_the_end": len(left)},
        "exit_code": exit_code,
    }
    return {**report, "bars": bars(report), **provenance(seed)}


def temporary_files(folder: Path) -> list[Path]:
    """Returns the files below a server's folder but for gradio's cache of clips and answers, which has a time limit."""
    return [path for path in folder.rglob("*") if path.is_file() and CACHE not in path.relative_to(folder).parts]


def _exit_code(server: subprocess.Popen[bytes]) -> int | None:
    """Returns how a server that was told to end did, None if it did not."""
    try:
        return server.wait(REST_S)
    except subprocess.TimeoutExpired:
        return None


def main() -> None:
    """Runs the protocol from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano", help="nano, a checkpoint folder, or a hub id (default: nano)")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument("--clients", type=int, default=8, help="programs that ask at once (default: 8)")
    parser.add_argument("--out", type=Path, required=True, help="the results file")
    args = parser.parse_args()
    try:
        files.check_writable(args.out)
        report = soak(args.model, args.minutes, args.clients)
    except ValueError as error:
        parser.error(str(error))
    files.write_json(args.out, report)
    for name, is_met in report["bars"].items():
        print(f"{'met   ' if is_met else 'MISSED'} {name}")
    sys.exit(0 if all(report["bars"].values()) else 1)


if __name__ == "__main__":
    main()
