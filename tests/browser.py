"""This machine's Chromium, driven by Playwright."""

import contextlib
import shutil

import pytest
from playwright.sync_api import sync_playwright

ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WITHIN = 90_000
"""Milliseconds until what is expected must be there: a page of MLflow can be slow to come up."""
HAS_TEXTS = """texts => {
  const squeeze = (text) => text.split(/\\s+/).join(" ");
  const shown = squeeze(document.body.innerText);
  return texts.every((text) => shown.includes(squeeze(text)));
}"""


@contextlib.contextmanager
def browsing():
    """A page of a new Chromium, 1,280 px wide; the test is skipped on a machine without one."""
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not chromium:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=ARGUMENTS, chromium_sandbox=False
        )
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(WITHIN)
            yield page
        finally:
            browser.close()


def shows(frame, *texts):
    """Wait until a page, or a frame in it, shows all texts, however spaced."""
    try:
        frame.wait_for_function(HAS_TEXTS, arg=list(texts))
    except Exception:
        shown = " ".join(frame.locator("body").inner_text().split())
        missing = [text for text in texts if " ".join(text.split()) not in shown]
        raise AssertionError(f"{missing} not in: {shown}") from None
