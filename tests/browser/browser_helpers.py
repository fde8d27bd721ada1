"""What the tests of every tab do with a page."""

from __future__ import annotations

import time
from pathlib import Path

from playwright.sync_api import Locator, Page

# Buttons, labels, table cells and tiles whose text is wider than their box (not the accordions: they turn an arrow).
CLIPPED = """() => [...document.querySelectorAll(
    "button:not(.label-wrap), label > span, th, td, dt, dd, .vn-status span"
)].filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline")
    .map(e => e.textContent.trim())"""


def open_page(page: Page, url: str, query: str = "") -> None:
    """Opens the page and waits until it can be used."""
    page.goto(url + query)
    page.get_by_role("tab", name="About").wait_for()


def button(page: Page, name: str) -> Locator:
    """The button of the open tab."""
    return page.get_by_role("button", name=name, exact=True).locator("visible=true")


def status(page: Page) -> Locator:
    """The status line of the open tab."""
    return page.locator(".vn-status").locator("visible=true")


def upload(page: Page, path: Path) -> None:
    """Hands a file to the question."""
    button(page, "Upload file").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Click to Upload").locator("visible=true").click()
    chooser.value.set_files(path)


def wait_until(is_true, timeout_s: float = 20.0) -> None:
    """Waits for something that the browser does not show."""
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
