"""One repair of Gradio itself, made once, before a page is served."""

from __future__ import annotations

import functools
from typing import Any

from gradio.blocks import Block
from gradio.state_holder import SessionState


def keep_identities() -> None:
    """Makes a visitor's component keep its id when Gradio builds it anew for an update, as `gr.skip()` is one.

    Gradio (6.31) gives the new component an id of its own and then files it once more under that id, with the value
    that it shows, for as long as the session lives: a copy of every answer, in a page that only means to show the last.
    """
    file = SessionState.__setitem__
    if hasattr(file, "__wrapped__"):  # done before
        return

    @functools.wraps(file)
    def file_as(session: SessionState, key: int, value: Any) -> None:
        if isinstance(value, Block):
            value._id = key
        file(session, key, value)

    SessionState.__setitem__ = file_as  # type: ignore[method-assign]
