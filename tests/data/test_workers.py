"""Work in several processes: killed at any time it leaves whole files and no process, and the next run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vocalnet.data.units import read_units
from vocalnet.data.workers import CHUNK, each

ROOT = Path(__file__).parents[2]
N_FILES = 20 * CHUNK


def test_results_come_in_the_order_of_the_jobs():
    jobs = list(range(-3 * CHUNK, 0))
    assert list(each(abs, jobs, 2, "counting")) == list(map(abs, jobs)) == list(each(abs, jobs, 1, "counting"))


def test_a_process_that_dies_is_said():
    with pytest.raises(ValueError, match="A process ended early"):
        list(each(os._exit, [3] * 2 * CHUNK, 2, "dying"))


def children(pid):
    """Process numbers of a process and of all that it started."""
    found = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = stat.read_text().split(" (", 1)
        except OSError:  # it ended meanwhile
            continue
        if int(rest.rsplit(") ", 1)[1].split()[1]) == pid:
            found += children(int(number))
    return found


def is_running(pid):
    """Whether a process is there, and not only its exit code."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted in /proc")
def test_a_killed_conversion_leaves_whole_files_and_no_process_and_goes_on(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for i in range(N_FILES):
        np.save(source / f"{i}.npy", np.array({"speech_token": np.arange(1 + i)}, dtype=object))
    command = [
        sys.executable,
        "-m",
        "vocalnet",
        "data",
        "convert",
        str(source),
        "--in-place",
        "--workers",
        "2",
        "--json",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not any(b"|O" not in p.read_bytes()[:128] for p in source.glob("[0-9]*.npy")):
        time.sleep(0.01)
    family = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(600):
        if not any(is_running(pid) for pid in family):
            break
        time.sleep(0.1)
    else:
        pytest.fail("processes stayed behind")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["n_plain"] >= 1
    assert (counts["n_plain"] + counts["n_converted"], counts["failed"]) == (N_FILES, [])
    assert all(len(read_units(source / f"{i}.npy")) == 1 + i for i in range(N_FILES))
