"""Fixtures of the tests of training: a tiny checkpoint and a tiny list, made once for a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.finetuning import tiny_checkpoint, tiny_list


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny list."""
    return tiny_list(tmp_path_factory.mktemp("data"))
