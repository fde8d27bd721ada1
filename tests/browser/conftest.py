"""A real browser on the real page around a fake model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from serving import Served, serve_fake

from demo.examples import EXAMPLES

playwright = pytest.importorskip("playwright.sync_api", reason="install requirements-dev.txt to test in a browser")
CHROMIUM = shutil.which("chromium")
MICROPHONE = EXAMPLES[1].path  # what the fake microphone hears, in a loop
PATIENCE_MS = 20_000  # a page on a busy machine
ARGUMENTS = [
    "--no-sandbox",
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
CAPTURE = "--use-file-for-fake-audio-capture="
# Gradio's player keeps its audio element out of the document; this keeps every element that was told to play.
REMEMBER_PLAYED = """
window.played = [];
const play = HTMLMediaElement.prototype.play;
HTMLMediaElement.prototype.play = function () { window.played.push(this); return play.call(this); };
"""


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The page around a fake model."""
    with serve_fake() as served:
        yield served


@pytest.fixture(scope="session")
def browser() -> Iterator[playwright.Browser]:
    """Debian's Chromium, with a fake microphone."""
    playwright.expect.set_options(timeout=PATIENCE_MS)
    if CHROMIUM is None:
        pytest.skip("apt-get install chromium to test in a browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, f"{CAPTURE}{MICROPHONE}"])
        yield browser
        browser.close()


@pytest.fixture
def listening_page(browser: playwright.Browser) -> Iterator[Callable[[Path], playwright.Page]]:
    """Makes an empty page whose microphone hears a recording once."""
    with ExitStack() as browsers:

        def make(path: Path) -> playwright.Page:
            arguments = [*ARGUMENTS, f"{CAPTURE}{path}%noloop"]
            other = browser.browser_type.launch(executable_path=CHROMIUM, args=arguments)
            browsers.callback(other.close)
            page = other.new_context(permissions=["microphone"]).new_page()
            page.set_default_timeout(PATIENCE_MS)
            return page

        yield make


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    """An empty page of a desktop's size."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
    page = context.new_page()
    page.add_init_script(REMEMBER_PLAYED)
    page.set_default_timeout(PATIENCE_MS)
    yield page
    context.close()
