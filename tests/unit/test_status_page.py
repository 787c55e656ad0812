"""The page of a status document, as a file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from duccmake.run.document import Document
from duccmake.run.page.writer import page_of, write_page
from support.statuses import document, held, image, large, page

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "'{{ 7 * 7 }}{% raw %}",
    "\u2028\u2029\0\x1b[31m",
    "&lt;b&gt; &amp;",
    "half a pair: \ud800",
)


class Elements(HTMLParser):
    """The elements of a page, each with the text that it begins with."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.texts.append("")
        self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, text)
            for (name, attributes), text in zip(self.found, self.texts, strict=True)
            if name == tag
        ]


def text_of(made: Document) -> str:
    return page_of(json.loads(made.to_json()))


def data_of(text: str):
    packed = re.search(r'id="data">([A-Za-z0-9+/=]*)</script>', text)[1]
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def shape(text: str) -> list[tuple[str, dict[str, str | None]]]:
    return Elements(text).found


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_adds_no_element_and_no_attribute_to_the_page(text):
    run = {"error": text, "warnings": [text]}
    tame = replace(document(held("a", "b")), version="v", run={"error": "e", "warnings": ["w"]})
    wild = replace(document(held(text, text, title=text)), version=text, run=run)

    assert shape(text_of(wild)) == shape(text_of(tame))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_comes_through_as_it_is(text, tmp_path):
    images = data_of(page(document(held(text, text)), tmp_path).read_text())["images"]

    assert images["title"] == [text]
    assert images["failure"][0]["reason"] == text


def test_what_is_no_unicode_comes_through_as_well(tmp_path):
    content = document(held("odd", "byte 80")).to_json().replace(b"byte 80", b"byte \\udc80")
    (tmp_path / "status.json").write_bytes(content)

    write_page(tmp_path / "status.json")

    images = data_of((tmp_path / "index.html").read_text())["images"]
    assert images["failure"][0]["reason"] == "byte \udc80"


def test_policy_allows_the_page_its_own_script_and_style_and_nothing_else():
    elements = Elements(text_of(document(image())))

    policy = next(
        found["content"]
        for found, _ in elements.of("meta")
        if found.get("http-equiv") == "Content-Security-Policy"
    )
    (_, style), *others = elements.of("style")
    scripts = [text for found, text in elements.of("script") if found.get("type") is None]
    assert not others and len(scripts) == 1
    assert policy == (
        f"default-src 'none'; script-src '{digest(scripts[0])}'; style-src '{digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def test_page_has_no_handler_or_style_in_an_attribute_and_no_address_from_elsewhere():
    elements = Elements(text_of(document(image())))

    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            assert attributes.get(name, "#results") in (
                "#results",
                "data:,",
                "status.json",
                "images.tsv",
            )


def test_five_thousand_images_take_less_than_two_megabytes():
    assert len(text_of(large(5000)).encode()) < 2_000_000


def test_page_of_no_images_and_no_days_is_a_page():
    empty = replace(document(), days=(), push_to_visible=(), layers=())

    assert "<svg" not in text_of(empty)
    assert data_of(text_of(empty))["images"]["title"] == []


def test_a_single_day_or_delay_is_no_mistake():
    one = replace(document(image(), days=1), push_to_visible=(120.0,))

    assert "half within 2 min" in text_of(one)


def test_pictures_have_no_colours_of_their_own():
    text = text_of(document(image()))

    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 2
    assert not re.search(r"fill=|stroke=|style|#[0-9a-f]{3}", "".join(pictures))


def test_page_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "index.html").write_text("old")

    page(document(image()), tmp_path)

    assert (tmp_path / "index.html").read_text().startswith("<!DOCTYPE html>")
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "status.json"}
