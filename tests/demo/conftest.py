"""One served page for all tests of the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Served, serve_fake


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The page around a fake model."""
    with serve_fake() as served:
        yield served
