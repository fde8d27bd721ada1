"""What a visitor's session keeps does not grow with the answers that it was shown."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pytest
from gradio_client import Client

from demo.upstream import keep_identities


@pytest.fixture
def counted() -> Iterator[tuple[gr.Blocks, Client]]:
    """A page whose endpoint leaves its output alone, and then fills it; and a visitor."""
    keep_identities()
    with gr.Blocks(analytics_enabled=False) as blocks:
        start, shown = gr.Button(), gr.JSON()

        def count():
            yield gr.skip()
            yield {"n": 1}
            yield gr.skip()
            yield {"n": 2}

        start.click(count, None, shown, api_name="count")
    app, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True)
    yield app, Client(url, verbose=False)
    blocks.close(verbose=False)


def test_a_session_keeps_no_component_twice(counted):
    app, client = counted
    sizes = []
    for _ in range(3):
        assert client.predict(api_name="/count") == {"n": 2}
        session = app.state_holder[client.session_hash]
        sizes.append((len(session.blocks_config.blocks), len(session.config_values)))
    assert len(set(sizes)) == 1
    assert all(block._id == key for key, block in session.blocks_config.blocks.items())


def test_the_repair_is_made_once():
    from gradio.state_holder import SessionState

    keep_identities()
    once = SessionState.__setitem__
    keep_identities()
    assert SessionState.__setitem__ is once
