"""nano itself through OpenAudioBench's path: killed by the system on the way, and started again."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "demo" / "examples"
QUESTIONS = {
    "llama_questions": (("Questions", "Answer"), [("capital", "Paris"), ("opposite", "Atlantis")]),
    "web_questions": (("question", "answers"), [("identity", "['nano', 'a speech model']"), ("repeat", "['x']")]),
}


@pytest.fixture
def bench(tmp_path) -> Path:
    """Four recordings that come with the page, in OpenAudioBench's layout."""
    for name, (columns, rows) in QUESTIONS.items():
        folder = tmp_path / "eval_datas" / name
        (folder / "audios").mkdir(parents=True)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, "audio_filename"])
            for example, answer in rows:
                shutil.copyfile(EXAMPLES / f"{example}.wav", folder / "audios" / f"{example}.wav")
                writer.writerow([example, answer, f"{example}.wav"])
    return tmp_path


def run(bench: Path, out: Path) -> subprocess.Popen:
    """Starts the command."""
    words = ["eval", "--set", "openaudiobench", "--data", bench, "--out", out, "--seed", "0", "--json"]
    command = [sys.executable, "-m", "vocalnet", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_nano_is_killed_resumed_and_leaves_one_results_file(bench, tmp_path):
    out, journal = tmp_path / "r.json", tmp_path / "r.json.journal"
    process = run(bench, out)
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline and process.poll() is None:
        if journal.exists() and journal.read_text().count("\n") > 1:  # its head and a row
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    n_done = journal.read_text().count("\n") - 1
    assert n_done >= 1
    again = run(bench, out)
    printed, errors = again.communicate(timeout=500)
    assert again.returncode == 0, errors
    report = json.loads(out.read_text())
    assert report["n_resumed"] == n_done
    assert report["n"] == len(report["cells"]) == 4
    assert not journal.exists()
    for name in QUESTIONS:
        found = report["sets"][name]
        assert found["n"] == 2
        assert found["wer"]["ci95"][0] <= found["wer"]["wer"] <= found["wer"]["ci95"][1]
        assert found["dnsmos_p808"]["n"] == 2
        assert found["s->t"]["n"] == found["s->s"]["n"] == 2
    assert report["sets"]["llama_questions"]["s->t"]["mean"] == 50.0
    assert set(report["means"]) == {"item_weighted", "simple"}
    assert json.loads(printed.splitlines()[-1])["sets"] == report["sets"]
