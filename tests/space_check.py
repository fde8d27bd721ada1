"""Serves the folder of `make space` where no model hub can be reached, and asks its page a question.

In an environment that has never seen this repository:

    make space
    python3.12 -m venv build/fresh && build/fresh/bin/pip install -r build/space/requirements.txt
    .venv/bin/python tests/space_check.py build/space --python build/fresh/bin/python
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

NOWHERE = "http://127.0.0.1:9"  # the discard port: every connection is refused
START_S = 600


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
        command = [python, "app.py", "--port", str(port)]
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


def main() -> int:
    """Checks one folder with one Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", type=Path)
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, served(arguments.space, arguments.python, Path(home)) as url:
        print(ask(url, arguments.space))
    return 0


if __name__ == "__main__":
    sys.exit(main())
