"""A page in headless Chromium, and what it did that it should not have done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

WIDE, NARROW = 1280, 360


@dataclass
class Opened:
    """A page, with the console's errors and the addresses that it asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until the page has done what is due."""
        self.page.evaluate(
            "() => new Promise(done => setTimeout(() => requestAnimationFrame(done)))"
        )

    def names(self) -> list[str]:
        """The images that are listed, in their order."""
        return self.page.locator("#rows th").all_text_contents()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium")
    if not program:
        pytest.skip("needs Debian's chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, fragment: str = "", **options: Any) -> Iterator[Opened]:
    """A page in a window of its own; fails where it had errors, or asked for anything else."""
    address = file.as_uri()
    options = {"viewport": {"width": WIDE, "height": 900}, **options}
    with browser.new_context(**options) as context:
        page = context.new_page()
        it = Opened(page)
        page.on("console", lambda line: it.errors.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: it.errors.append(str(error)))
        page.on("dialog", lambda dialog: (it.errors.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: it.asked.append(request.url.partition("#")[0]))
        page.goto(address + fragment)
        page.wait_for_selector("html[data-ready=yes]", state="attached")
        yield it
        it.settle()
        assert it.errors == []
        assert set(it.asked) == {address}
