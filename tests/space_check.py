"""Serves the folder of `make space` where no model hub can be reached, and asks its page a question.

`make space-check` runs it with the Python of an environment that has never seen this repository.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file

from vocalnet.files import write_json
from vocalnet.provenance import provenance

NOWHERE = "http://127.0.0.1:9"  # the discard port: every connection is refused
START_S = 600
CAPTURED: dict[str, Any] = {"capture_output": True, "text": True, "check": True}


def cut_off(home: Path) -> dict[str, str]:
    """Returns an environment with nothing of this one but its path, an empty home, and no way out."""
    proxies = {f"{name}_PROXY": NOWHERE for name in ("HTTP", "HTTPS", "ALL")}
    proxies |= {name.lower(): value for name, value in proxies.items()}
    local = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    hub = {"HF_ENDPOINT": NOWHERE, "HF_HOME": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    return {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), **proxies, **local, **hub}


@contextmanager
def served(space: Path, python: str, home: Path) -> Iterator[str]:
    """Runs a Space's app.py until the block ends; yields its address once it is up.

    Raises:
        RuntimeError: it ended instead.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (home / "log").open("w") as log:
        command = [os.path.abspath(python), "app.py", "--port", str(port)]  # a link to the bare Python stays one
        process = subprocess.Popen(command, cwd=space, env=cut_off(home), stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(START_S):
            if process.poll() is not None:
                raise RuntimeError(f"app.py ended with {process.returncode}:\n{(home / 'log').read_text()}")
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=60)
                break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait()


def ask(url: str, space: Path) -> dict[str, Any]:
    """Returns what the page answers to one of its own examples, in text and speech."""
    clip = handle_file(space / "demo" / "examples" / "capital.wav")
    sound, answer = Client(url, verbose=False).predict(audio=clip, api_name="/speech_to_speech")
    n_tokens, n_bytes = len(answer["speech_tokens"]), Path(sound).stat().st_size
    return {"text": answer["text"], "n_speech_tokens": n_tokens, "n_bytes": n_bytes}


def check(space: Path, python: str) -> dict[str, Any]:
    """Returns what the page of a Space answered, with which Python, after how many seconds it was up, and where."""
    version = subprocess.run([python, "-c", "import platform; print(platform.python_version())"], **CAPTURED).stdout
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home, served(space, python, Path(home)) as url:
        start_s = time.monotonic() - began
        answer = ask(url, space)
    return {"space": answer, "python": version.strip(), "start_s": round(start_s, 1), **provenance()}


def main() -> int:
    """Checks one folder with one Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--out", type=Path, help="where the results go, JSON")
    arguments = parser.parse_args()
    record = check(arguments.space, arguments.python)
    print(record["space"])
    if arguments.out is not None:
        write_json(arguments.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
