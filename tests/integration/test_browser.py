"""The page "Where is my image?" in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from duccmake.run.document import Sizes
from support.browser import NARROW, Opened, chromium, opened
from support.statuses import NOW, degraded, document, held, image, large, leaving, page, pending

REPOSITORY = "unpacked.example.org"

HOSTILE = "x/<img src=x onerror=alert(1)>:</script><script>alert(2)</script>&amp;\u2028'\""

PHONE = {"viewport": {"width": NARROW, "height": 740}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """A page with an image in each state."""
    directory = tmp_path_factory.mktemp("few")
    images = [
        image("alpine:3.20", published=NOW - 100, sizes=Sizes(300, 800, 4, 30), layers=(0, 1)),
        pending("busybox:1", published=None, sizes=Sizes(), paths={}, layers=()),
        held("root:6.32", "the registry answers 429", layers=(0,)),
        leaving("old:1", published=NOW - 9000, sizes=Sizes(200, 800, 4, 40), layers=(0,)),
        degraded("dev:1", layers=(1, 2)),
        image("both:1", platform="linux/amd64", title="both:1 (linux/amd64)"),
        image("both:1", platform="linux/arm64", title="both:1 (linux/arm64)"),
    ]
    return page(document(*images, layers=3), directory)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A page with thousands of images."""
    directory = tmp_path_factory.mktemp("many")
    return page(large(5000), directory)


def test_failures_are_listed_first_and_each_image_says_how_it_stands(browser, few):
    with opened(browser, few) as it:
        assert it.names()[0] == "root:6.32"
        row = it.page.locator("#rows tr").first
        assert "held" in row.inner_text() and "failing" in row.inner_text()
        assert "the registry answers 429; tried again from 13:00" in row.inner_text()
        assert it.page.locator("#count").inner_text() == "7 images"


def test_search_finds_all_words_in_names_and_reasons(browser, few):
    with opened(browser, few) as it:
        it.page.get_by_label("Search names").fill("429 ROOT")
        assert it.names() == ["root:6.32"]
        assert it.page.locator("#count").inner_text() == "1 of 7 images"
        assert it.page.url.endswith("#q=429+ROOT")

        it.page.get_by_label("Search names").fill("nowhere")
        assert it.names() == []
        assert it.page.locator("#count").inner_text() == "0 of 7 images"


@pytest.mark.parametrize(
    ("fragment", "names"),
    [
        ("#sync=pending", {"busybox:1"}),
        ("#sync=pending,leaving", {"busybox:1", "old:1"}),
        ("#sync=up+to+date&health=degraded", {"dev:1"}),
        ("#sync=up%20to%20date&health=degraded", {"dev:1"}),
        ("#health=failing", {"root:6.32"}),
        ("#sync=leaving&health=failing", set()),
        ("#q=old&sync=leaving", {"old:1"}),
        ("#sync=held&sort=nonsense&health=unheard", {"root:6.32"}),
    ],
)
def test_address_filters_by_both_axes(browser, few, fragment, names):
    with opened(browser, few, fragment) as it:
        assert set(it.names()) == names


def test_filters_that_are_ticked_are_in_the_address_and_the_counts_follow(browser, few):
    with opened(browser, few) as it:
        it.page.get_by_label("pending").check()
        it.page.get_by_label("held").check()
        assert it.page.url.endswith("#sync=pending,held")
        assert set(it.names()) == {"busybox:1", "root:6.32"}
        health = it.page.locator("[data-axis=health]").inner_text()
        assert "ok (1)" in health and "failing (1)" in health and "degraded (0)" in health

        it.page.get_by_role("button", name="Show all").click()
        assert len(it.names()) == 7
        assert not it.page.get_by_label("pending").is_checked()


def test_columns_are_sorted_both_ways_and_say_so_and_what_is_unknown_comes_last(browser, few):
    with opened(browser, few) as it:
        head = it.page.get_by_role("columnheader", name="Size")
        assert head.get_attribute("aria-sort") == "none"
        head.get_by_role("button").click()
        head = it.page.get_by_role("columnheader", name="Size")
        assert head.get_attribute("aria-sort") == "ascending"
        assert it.names()[:2] == ["old:1", "alpine:3.20"]
        assert it.names()[-1] == "busybox:1"

        head.get_by_role("button").click()
        head = it.page.get_by_role("columnheader", name="Size")
        assert head.get_attribute("aria-sort") == "descending"
        assert it.names()[-3:] == ["alpine:3.20", "old:1", "busybox:1"]
        assert it.page.url.endswith("#sort=-size")

        head.get_by_role("button").click()
        assert it.names()[0] == "root:6.32"
        assert "sort" not in it.page.url


def test_address_leads_to_one_image_with_all_that_is_known_of_it(browser, few):
    with opened(browser, few, f"#image={REPOSITORY}/alpine:3.20") as it:
        text = it.page.locator("#image").inner_text()
        assert "apptainer exec /cvmfs/unpacked.example.org/alpine:3.20 /bin/sh" in text
        assert "podman run --rm alpine:3.20" in text
        assert "recipe.yaml at 4f2a9c1e" in text and "linux/amd64" in text
        assert "in revision 812" in text and "30 B are of this image alone" in text
        assert it.page.locator("#history tbody tr").count() == 2
        assert "published" in it.page.locator("#history tbody tr").first.inner_text()
        assert not it.page.locator("#list").is_visible()
        assert it.page.title().startswith("alpine:3.20")


def test_layers_lead_to_the_images_that_share_them(browser, few):
    with opened(browser, few, f"#image={REPOSITORY}/dev:1") as it:
        rows = it.page.locator("#layers tbody tr")
        assert "this image alone" in rows.nth(1).inner_text()
        rows.nth(0).locator("summary").click()
        rows.nth(0).get_by_role("link", name="alpine:3.20").click()
        it.settle()
        assert it.page.locator("#image-title").inner_text() == "alpine:3.20"


def test_two_platforms_of_an_image_have_each_an_address(browser, few):
    with opened(browser, few, f"#image={REPOSITORY}/both:1 (linux/arm64)") as it:
        assert it.page.locator("#image-title").inner_text() == "both:1 (linux/arm64)"


def test_what_changed_from_the_version_before_is_told_and_its_paths_are_text(browser, tmp_path):
    part = {"files": 1, "bytes": 2_000_000}
    changes = {
        "since": "sha256:4253d613a227" + "0" * 52,
        **{"added": part, "removed": {"files": 0, "bytes": 0}, "changed": part},
        "largest": [["added", HOSTILE, 2_000_000]],
    }
    file = page(document(image("app:1", changes=changes)), tmp_path)

    with opened(browser, file, "#image=app:1") as it:
        text = it.page.locator("#image").inner_text()
        assert "From sha256:4253d613a227: added 1 file, 2.0 MB; removed 0 files, 0 B" in text
        it.page.get_by_text("The largest of them").click()
        assert it.page.locator("#changes code").text_content() == HOSTILE


def test_failure_that_stands_and_those_before_it_are_told(browser, few):
    with opened(browser, few, f"#image={REPOSITORY}/root:6.32") as it:
        items = it.page.locator(".failures li")
        assert items.count() == 2
        assert "4 tries" in items.nth(0).inner_text() and "it stands" in items.nth(0).inner_text()
        assert "over since" in items.nth(1).inner_text()
        assert "Next try" in it.page.locator("#image dl").inner_text()


def test_address_may_leave_out_the_repository(browser, few):
    with opened(browser, few, "#image=alpine:3.20") as it:
        assert it.page.locator("#image-title").inner_text() == "alpine:3.20"


def test_image_that_nobody_knows_is_said_to_be_none(browser, few):
    with opened(browser, few, "#image=<b>no</b>") as it:
        assert "No wish list names <b>no</b>" in it.page.locator("#image").inner_text()


def test_a_command_is_copied(browser, few):
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    with opened(browser, few, f"#image={REPOSITORY}/alpine:3.20", **allowed) as it:
        it.page.get_by_role("button", name="Copy: Podman").click()
        it.page.get_by_text("Copied").wait_for()
        copied = it.page.evaluate("navigator.clipboard.readText()")
        assert copied == "podman run --rm alpine:3.20"


def test_keyboard_alone_searches_filters_sorts_opens_and_comes_back(browser, few):
    with opened(browser, few) as it:
        keyboard, focused = it.page.keyboard, it.page.locator("*:focus")
        keyboard.press("Tab")
        assert focused.inner_text() == "To the images"
        keyboard.press("Tab")
        assert focused.get_attribute("id") == "search"
        keyboard.type("old:")
        assert it.names() == ["old:1"]
        for _ in range(4):
            keyboard.press("Backspace")
        for _ in range(4):
            keyboard.press("Tab")
        assert focused.get_attribute("value") == "leaving"
        keyboard.press("Space")
        assert it.names() == ["old:1"]
        keyboard.press("Space")

        tab_to(it, "Image")
        keyboard.press("Enter")
        assert it.names()[0] == "alpine:3.20"
        assert focused.inner_text() == "Image"

        tab_to(it, "dev:1")
        keyboard.press("Enter")
        it.settle()
        assert focused.get_attribute("id") == "image-title"
        keyboard.press("Escape")
        it.settle()
        assert focused.inner_text() == "dev:1"
        assert it.page.url.endswith("#sort=image")


def tab_to(it: Opened, text: str) -> None:
    for _ in range(40):
        it.page.keyboard.press("Tab")
        if it.page.locator("*:focus").inner_text() == text:
            return
    raise AssertionError(f"the keyboard does not come to {text}")


def test_what_has_the_focus_is_seen_to_have_it(browser, few):
    with opened(browser, few) as it:
        for _ in range(14):
            it.page.keyboard.press("Tab")
            width = it.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
            assert float(width.removesuffix("px")) >= 2


def test_all_images_can_be_come_by_and_the_first_come_at_once(browser, many):
    with opened(browser, many) as it:
        assert len(it.names()) == 100
        it.page.get_by_role("button", name="more of 4,900").click()
        assert len(it.names()) == 500
        assert it.page.locator("*:focus").inner_text() == it.names()[100]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, PHONE], ids=["wide", "narrow"])
@pytest.mark.parametrize("place", ["", f"#image={REPOSITORY}/root:6.32"], ids=["list", "image"])
def test_page_has_no_fault_that_axe_finds_such_as_too_little_contrast(
    browser, few, place, options, scheme
):
    with opened(browser, few, place, color_scheme=scheme, **options) as it:
        found = Axe().run(it.page)
        assert found.response["violations"] == [], found.generate_report()
        # A page whose style is not applied has contrast enough.
        dark = it.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(20, 23, 27)") == (scheme == "dark")


@pytest.mark.parametrize("place", ["", f"#image={REPOSITORY}/root:6.32"], ids=["list", "image"])
def test_a_telephone_shows_all_without_scrolling_sideways(browser, tmp_path, place):
    long = image("registry.example.org/" + "a" * 200 + ":" + "b" * 120)
    file = page(document(held("root:6.32", "no/" + "x" * 300), long), tmp_path)

    with opened(browser, file, place, **PHONE) as it:
        width = it.page.evaluate("document.documentElement.scrollWidth")
        assert width == NARROW
        cut = it.page.evaluate(
            "[...document.querySelectorAll('main *')].filter(one => one.checkVisibility() && "
            "!one.closest('svg, .unseen') && one.getBoundingClientRect().right > innerWidth)"
            ".map(one => one.outerHTML.slice(0, 80))"
        )
        assert cut == []


def test_names_and_reasons_that_are_hostile_are_text(browser, tmp_path):
    said = {"title": HOSTILE, "wish": {"recipe": HOSTILE}, "losses": {HOSTILE: 1}}
    file = page(document(held(HOSTILE, HOSTILE, **said)), tmp_path)

    with opened(browser, file) as it:
        assert it.names() == [HOSTILE]
        it.page.locator("#rows a").click()
        it.settle()
        assert it.page.locator("#image-title").text_content() == HOSTILE
        assert HOSTILE in it.page.locator("#image dl").text_content()
        assert it.page.locator("#image img, #image script").count() == 0


def test_script_that_gets_into_the_page_all_the_same_does_not_run(browser, few):
    with browser.new_context() as context:
        window = context.new_page()
        window.goto(few.as_uri())
        window.evaluate(
            "() => { document.body.insertAdjacentHTML('beforeend', "
            "'<img src=x onerror=\"window.ran = true\">');"
            "const s = document.createElement('script'); s.textContent = 'window.ran = true';"
            "document.body.append(s); }"
        )
        window.evaluate("() => new Promise(done => setTimeout(done))")
        assert window.evaluate("window.ran") is None


def test_page_without_images_says_so(browser, tmp_path):
    file = page(document(days=0), tmp_path)

    with opened(browser, file) as it:
        assert it.page.locator("#count").inner_text() == "0 images"
