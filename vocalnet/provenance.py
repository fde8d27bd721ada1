"""Where a number comes from: the machine, the date, the code and the weights of a measurement."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parents[1]
FINGERPRINT_VALUES = 16  # of each tensor, evenly spread: training moves all of them
FIRST_FINGERPRINT = "first_fingerprint"  # where a module keeps the one that it had before it was rearranged


def provenance(seed: int | None = None) -> dict[str, Any]:
    """Returns {"machine", "date", "seed", "commit"} for a results file; the date is UTC."""
    import torch

    machine: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"machine": machine, "date": date, "seed": seed, "commit": code_version()}


def fingerprint(module: nn.Module) -> str:
    """Returns twelve hex digits that tell two models' weights apart, from a few values of every parameter.

    What a kernel has rearranged counts as it was before (`keep_fingerprint`): that makes no other model.
    """
    known = module.__dict__.get(FIRST_FINGERPRINT)
    if known is not None:
        return str(known)
    digest = hashlib.sha256()
    for name, weight in module.named_parameters(recurse=False):
        values = weight.detach().flatten()
        values = values[:: max(1, values.numel() // FINGERPRINT_VALUES)][:FINGERPRINT_VALUES]
        digest.update(f"{name} {tuple(weight.shape)}".encode() + values.double().cpu().numpy().tobytes())
    for name, child in module.named_children():
        digest.update(f"{name} {fingerprint(child)}".encode())
    return digest.hexdigest()[:12]


def keep_fingerprint(module: nn.Module, plain: nn.Module | None = None) -> None:
    """Makes a module remember its fingerprint before its weights are rearranged, or that of what it stands for."""
    setattr(module, FIRST_FINGERPRINT, fingerprint(module if plain is None else plain))


def peak_memory_mb() -> float | None:
    """Returns the most memory that this process has held so far, in MB (resident set); None where it cannot be told."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1e6 if platform.system() == "Darwin" else 1e3  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def cpu_model() -> str:
    """Returns the processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def code_version() -> str:
    """Returns the git commit, marked "-dirty" with local changes; outside a clone, the package's version.

    New results are no change: one measurement after the other is of the same code.
    """
    if (ROOT / ".git").exists():
        try:
            changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
            return _git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
        except (OSError, subprocess.CalledProcessError):
            pass  # no git program, or the clone belongs to someone else: the version must do
    try:
        return f"vocalnet {importlib.metadata.version('vocalnet')}"
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
