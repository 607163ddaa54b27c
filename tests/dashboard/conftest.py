"""A real browser before a real service: Debian's Chromium, which `.ci/run` insists on and others may lack."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.api.server import DEADLINE_SECONDS

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",  # containers have no user namespaces, and the page is ours
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
ANSWERED = re.compile(r"Failed to load resource")  # Chromium notes every answer that is an error

Show = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module."""
    if CHROMIUM is None:
        assert not os.environ.get("TOOLS_REQUIRED"), "install Debian's chromium"
        pytest.skip("there is no chromium on this machine")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    """Opens the dashboard of a service, and waits until it is live.

    No page may have failed, nor broken the service's Content-Security-Policy, nor asked anybody else for anything.
    """
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def shown(url: object, *, width: int = 1280, height: int = 900, scheme: str = "light", wait: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        contexts.append(context)
        context.set_default_timeout(DEADLINE_SECONDS * 1000)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.extend(_fault(message)))
        page.on("request", lambda request: faults.extend([] if request.url.startswith(str(url)) else [request.url]))
        page.goto(str(url))
        if wait:
            live(page)
        return page

    expect.set_options(timeout=DEADLINE_SECONDS * 1000)
    yield shown
    for context in contexts:
        context.close()
    assert faults == []


def live(page: Page) -> None:
    """Wait until the page hears the service's events."""
    expect(page.locator("#connection-state")).to_have_text("Live")


def _fault(message: ConsoleMessage) -> list[str]:
    return [message.text] if message.type == "error" and not ANSWERED.match(message.text) else []


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An empty directory for models of the test's own."""
    directory = tmp_path / "small"
    directory.mkdir()
    return directory
