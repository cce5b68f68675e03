"""A browser without a window, for what only a browser can show. Where there is none, tests are skipped and say why."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def open_browser() -> Iterator[Any]:
    """The system's own Chromium or Chrome, driven by Playwright; the test is skipped without one of the two."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the path")
    with sync_api.sync_playwright() as playwright:
        # root has no sandbox, and pages here are our own
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def show(browser: Any, body: str, width: int = 700, scheme: str = "light") -> Any:
    """A page with this body; an error in one of its scripts fails the test at once, through `page.errors`."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.route("**/*", lambda route: page.errors.append(f"asked for {route.request.url}"))
    page.set_content(f"<!doctype html><html><body>{body}</body></html>")
    return page
