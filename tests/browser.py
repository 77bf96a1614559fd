"""Chromium by the WebDriver protocol, which is HTTP and JSON: no package is needed for the little that tests do."""

import contextlib
import shutil
import socket
import subprocess
import time
from base64 import b64decode

import pytest
import requests

OPTIONS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
)
OPTIONS += ("disable-component-update", "disable-sync", "hide-scrollbars")


class Browser:
    """One window."""

    def __init__(self, session):
        self.session = session
        self.resize(1280)

    def do(self, command, **options):
        """A command of the protocol; see https://www.w3.org/TR/webdriver2/#endpoints."""
        answer = requests.post(f"{self.session}/{command}", json=options, timeout=120)
        assert answer.ok, answer.text
        return answer.json()["value"]

    def run(self, script, *given):
        """What a script returns in the page, or in the frame that was entered."""
        return self.do("execute/sync", script=script, args=list(given))

    def wait(self, script, *given):
        """What a script hands to its last argument, a function."""
        return self.do("execute/async", script=script, args=list(given))

    def open(self, url):
        """A page from its start: MLflow's own router would keep what another page had."""
        self.do("url", url="about:blank")
        self.do("url", url=url)

    def devtools(self, command, **options):
        """A command of the DevTools protocol."""
        return self.do("goog/cdp/execute", cmd=command, params=options)

    def shows(self, *texts, within=90):
        """Wait until the page, or the frame that was entered, shows all texts, however spaced."""
        deadline = time.monotonic() + within
        while missing := [
            text for text in texts if " ".join(text.split()) not in (shown := self.text())
        ]:
            assert time.monotonic() < deadline, f"{missing} not in: {shown}"
            time.sleep(0.3)

    def text(self, selector="body"):
        """The text that an element shows."""
        return " ".join(
            self.run("return document.querySelector(arguments[0]).innerText", selector).split()
        )

    def enter(self, selector):
        """Go into the frame that the selector finds."""
        self.do("frame", id=self.find(selector))

    def leave(self):
        """Go back to the page itself."""
        self.do("frame", id=None)

    def find(self, selector, within=90):
        """The first element that the selector finds, once it is there."""
        deadline = time.monotonic() + within
        while not (found := self.do("elements", using="css selector", value=selector)):
            assert time.monotonic() < deadline, f"no {selector}"
            time.sleep(0.3)
        return found[0]

    def type(self, selector, text):
        """Write a text into a field, in place of what is there."""
        field = next(iter(self.find(selector).values()))
        self.do(f"element/{field}/clear")
        self.do(f"element/{field}/value", text=text)

    def resize(self, width, height=800):
        """Let the page be so many pixels wide and high."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def picture(self, path):
        """Write what is seen as PNG."""
        time.sleep(2)  # what is still being drawn
        path.write_bytes(b64decode(self.devtools("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browsing(profile):
    """A browser whose profile lies in the folder; the test is skipped where there is none."""
    driver, chromium = (
        shutil.which("chromedriver"),
        shutil.which("chromium") or shutil.which("google-chrome"),
    )
    if not (driver and chromium):
        pytest.skip("needs Chromium and chromedriver")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/session"
        for _ in range(100):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/status", timeout=5)
                break
            time.sleep(0.1)
        chosen = {
            "binary": chromium,
            "args": [*(f"--{option}" for option in OPTIONS), f"--user-data-dir={profile}"],
        }
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": chosen}}}
        answer = requests.post(address, json=wanted, timeout=60)
        assert answer.ok, answer.text
        session = f"{address}/{answer.json()['value']['sessionId']}"
        try:
            yield Browser(session)
        finally:
            requests.delete(session, timeout=60)
    finally:
        process.terminate()
        process.wait(60)
