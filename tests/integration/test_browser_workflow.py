"""One image on its page through all its states, by real runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from duccmake.demo.images import Image
from support.browser import chromium, opened
from support.images import LayerBuilder
from support.kept_state import let_pauses_end
from support.runs import Work, fresh_work

NAME = "team/app:1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def work(tmp_path) -> Iterator[Work]:
    """An image that is wished for, and pauses as they are by default."""
    with fresh_work(tmp_path) as work:
        work.configure(retry={})
        yield work


def image(text: str) -> Image:
    return Image((LayerBuilder().file("content", text).layer(),), {"Cmd": ["/content"]})


def page_of(work: Work) -> Path:
    return work.path / "results/status/index.html"


def told(browser: Browser, work: Work) -> str:
    """What the page of the last run says of the image, in the list and in its own view."""
    with opened(browser, page_of(work), f"#q={NAME}") as it:
        listed = it.page.locator("#rows tr").inner_text()
        it.page.locator("#rows a").click()
        it.settle()
        return listed + it.page.locator("#image").inner_text()


def test_page_follows_an_image_through_all_its_states(browser, work):
    work.wish("{host}/team/other:1", "{host}/team/app:1")
    work.push("team/other:1", image("other"))
    work.push(NAME, image("first"))

    with work.deserted():
        work.run()
    pending = told(browser, work)
    assert "pending" in pending and "tried again in the next run" in pending

    work.run(check=True)
    first = told(browser, work)
    assert "up to date" in first and "ok" in first
    assert f"apptainer exec {work.path}/cvmfs/" in first and f"/{NAME}" in first

    second = image("second")
    work.push(NAME, second)
    blob = work.registry.store.blob_path(second.layers[0].digest)
    whole = blob.read_bytes()
    blob.write_bytes(b"x" * len(whole))
    assert work.run().status == 1
    held = told(browser, work)
    assert "held" in held and "failing" in held and "1 try" in held
    assert "tried again from" in held and "is in force" in held and "wanted" in held

    blob.write_bytes(whole)
    let_pauses_end(work)
    work.run(check=True)
    mended = told(browser, work)
    assert "up to date" in mended and "failing" not in mended and "over since" in mended
    assert "added 0 files, 0 B; removed 0 files, 0 B; changed 1 file, 6 B" in mended

    with work.deserted():
        work.run(check=True)
    stale = told(browser, work)
    assert "up to date as far as is known" in stale and "stale" in stale and "not reached" in stale

    # No kernel has such an attribute of a symlink, whoever asks for it.
    odd = LayerBuilder().symlink("content", "elsewhere", xattrs={"user.comment": b"lost"})
    work.push(NAME, Image((odd.layer(),)))
    work.run(check=True)
    degraded = told(browser, work)
    assert "up to date" in degraded and "degraded" in degraded

    work.wish("{host}/team/other:1")
    work.run(check=True)
    assert "leaving" in told(browser, work)

    work.run("prune", check=True)
    work.run(check=True)
    with opened(browser, page_of(work), f"#image={work.named(NAME)}") as it:
        assert "No such image" in it.page.locator("#image").inner_text()


def test_page_says_why_a_run_came_to_no_images_and_keeps_what_was_known(browser, work):
    work.wish("{host}/team/other:1")
    work.push("team/other:1", image("other"))
    work.run(check=True)
    (work.path / "config/recipe.yaml").write_text("version: [")

    assert work.run().status == 1

    with opened(browser, page_of(work)) as it:
        assert "The last run came to no images: " in it.page.locator("header").inner_text()
        assert it.names() == [work.named("team/other:1")]


def test_dry_run_leaves_the_page_alone(work):
    work.wish("{host}/team/other:1")
    work.push("team/other:1", image("other"))
    work.run("-n", check=True)
    assert not page_of(work).exists()
