"""The frame of every page: arguments, header, theme and launch. A tab run alone uses it too."""

from __future__ import annotations

import argparse
import logging
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio_client import Client
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from demo import render
from demo.scripts import script
from demo.state import App
from demo.theme import CSS, THEME
from demo.turns import TURNS, live
from demo.upstream import keep_identities

PATIENCE_S = 10.0  # with jobs that end, when the server does
CACHE_S = 3600
MAX_WAITING = 16
MAX_SESSIONS = 200  # of which Gradio keeps what their pages show; the longest idle go first


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of the arguments that the page and each single tab take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="nano", help="nano, a checkpoint folder, or a hub id (default: nano)")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best available)")
    parser.add_argument(
        "--dtype", help="float32, bfloat16 or float16 (default: float32 on a CPU, else the checkpoint's)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: 7860)")
    parser.add_argument("--share", action="store_true", help="make a public link through gradio.live")
    parser.add_argument(
        "--queue", type=int, default=MAX_WAITING, help=f"how many jobs may wait for their turn (default: {MAX_WAITING})"
    )
    return parser


@contextmanager
def new_page(app: App) -> Iterator[gr.Blocks]:
    """Opens a page with the header; the caller fills it."""
    with gr.Blocks(title="VocalNet", analytics_enabled=False, delete_cache=(CACHE_S, CACHE_S)) as blocks:
        gr.HTML(render.header(app.name, str(app.model.device)), js_on_load=script("drop.js"))
        yield blocks

        def forget(request: gr.Request) -> None:
            app.forget(request.session_hash)

        blocks.unload(forget)


def launch(
    blocks: gr.Blocks,
    app: App,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    queue: int | None = None,
) -> str:
    """Serves the page, with GET /health and GET /live beside it, and returns its local address.

    Args:
        port: None picks a free one.
        queue: how many jobs may wait, None for `MAX_WAITING`; who comes then reads `job.BUSY`.

    Raises:
        ValueError: it cannot be served there, or nobody may wait.
    """
    if queue is not None and queue < 1:
        raise ValueError("--queue must be at least 1: somebody has to be able to wait.")

    def health(request: Request) -> JSONResponse:
        return JSONResponse(app.health())

    def alive(request: Request) -> JSONResponse:
        return JSONResponse({**live(), "visits": len(app.visits)})

    keep_identities()
    try:
        _, url, _ = blocks.queue(max_size=queue or MAX_WAITING).launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            show_error=False,
            theme=THEME,
            css=CSS,
            footer_links=["api", "settings"],
            run_history=False,
            max_file_size="20mb",
            enable_monitoring=False,
            state_session_capacity=MAX_SESSIONS,
            app_kwargs={"routes": [Route("/health", health), Route("/live", alive)]},
        )
    except OSError as error:
        raise ValueError(
            f"Cannot serve on {host}, port {port}: it is taken, or no address of this machine. "
            "Choose another --port, or another --host."
        ) from error
    # The first event after a start costs most of a second; no visitor should wait for it.
    Client(url, verbose=False).predict(api_name="/health")
    return url


def serve(build: Callable[[App], gr.Blocks], app: App, **where: Any) -> None:
    """Serves a page until SIGINT or SIGTERM, then ends all jobs; its files lie in a folder that goes with it.

    Args:
        build: makes the page.
        app: its model.
        where: as for `launch`.

    Raises:
        ValueError: it cannot be served there.
    """

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="vocalnet-page-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        blocks = build(app)
        try:
            print(f"The page is on {launch(blocks, app, **where)}", flush=True)
            while True:
                time.sleep(1.0)
        except KeyboardInterrupt:
            print("Shutting down.", flush=True)
        finally:
            TURNS.close(PATIENCE_S)
            blocks.close(verbose=False)
            tempfile.tempdir = None


def main(build: Callable[[App], gr.Blocks], description: str | None) -> None:
    """Serves a page until it is interrupted; what cannot be served ends with one sentence and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    parser = arguments(description)
    args = parser.parse_args()
    try:
        app = App.load(args.model, device=args.device, dtype=args.dtype)
        serve(build, app, host=args.host, port=args.port, share=args.share, queue=args.queue)
    except ValueError as error:
        parser.error(str(error))


def alone(tab: Callable[[App], Any]) -> Callable[[App], gr.Blocks]:
    """Returns a `build` of a page with one tab: `python -m demo.tabs.speech_to_speech --model nano`."""

    def build(app: App) -> gr.Blocks:
        with new_page(app) as blocks:
            tab(app)
        return blocks

    return build
