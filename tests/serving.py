"""Serves the real page around a fake model, on a free port, for tests of the API and of the browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fakes import JUDGES, FakeModel

from demo.page import launch
from demo.state import App
from demo.ui import build


@dataclass(frozen=True)
class Served:
    """A running page, and the app and the model behind it."""

    url: str
    model: FakeModel
    app: App


@contextmanager
def serve_fake(**where: Any) -> Iterator[Served]:
    """Runs the page until the block ends; `where` as for `launch`."""
    model = FakeModel()
    app = App("fake", model, load_s=1.5, judges=JUDGES)
    app.warm_up()
    blocks = build(app)
    yield Served(launch(blocks, app, **where), model, app)
    blocks.close()
