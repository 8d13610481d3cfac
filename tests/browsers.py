"""Chromium for tests of pages."""

import contextlib
import os
import shutil

import pytest

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


def missing(what):
    """Skips, but on CI, where the browser must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, and {what}")
    pytest.skip(what)


@contextlib.contextmanager
def chromium(*arguments):
    """A Chromium to open pages in; skips, as `missing`, where there is none."""
    try:
        from playwright import sync_api
    except ImportError:
        missing("playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        if path is None and not os.path.exists(playwright.chromium.executable_path):
            missing("there is no Chromium: neither on the PATH nor by `playwright install chromium`")
        with playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *arguments]) as launched:
            yield launched


def href(page):
    """As the page itself has it: Playwright's `page.url` follows it only after a message of the browser."""
    return page.evaluate("location.href")
