"""Packages that only the evaluation needs."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(name: str) -> ModuleType:
    """Returns an optional module.

    Raises:
        ValueError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f'This measurement needs the package {name}: pip install "vocalnet[eval]"') from error
