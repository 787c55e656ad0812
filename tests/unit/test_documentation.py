"""What the documentation leads to is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.runs import CHECKOUT

PAGES = sorted(
    str(path.relative_to(CHECKOUT))
    for path in [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("config/*.md")]
)


def anchors(page: Path) -> Iterator[str]:
    """The names that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    path = CHECKOUT / page
    links = re.findall(r"\]\((?!https?://)([^)#\s]*)#?([^)\s]*)\)", path.read_text())
    for file, anchor in links:
        target = path.parent / file if file else path
        assert target.exists(), file
        assert not anchor or anchor in set(anchors(target)), f"{file}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_that_is_named_is_there(page):
    targets = re.findall(r"^([\w.]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([a-z]+)", (CHECKOUT / page).read_text(), re.MULTILINE)
    assert set(named) <= set(targets)


def test_the_readme_leads_to_all_other_pages():
    text = (CHECKOUT / "README.md").read_text()
    assert [page for page in PAGES if page != "README.md" and f"({page}" not in text] == []


def test_every_test_that_is_named_is_there():
    named = re.findall(r"(\w+)::(\w+)", (CHECKOUT / "docs/security.md").read_text())
    assert len(named) > 30
    modules = {path.stem: path.read_text() for path in (CHECKOUT / "tests").rglob("test_*.py")}
    assert [
        f"{module}::{test}"
        for module, test in named
        if f"\ndef {test}(" not in modules.get(module, "")
    ] == []
