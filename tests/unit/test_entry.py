"""Recipes of version 2: entries that are mappings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from duccmake.oci.reference import Platform
from duccmake.oci.tags import TagRules
from duccmake.recipe.model import Recipe
from support.wishes import load

HEAD = "version: 2\ncvmfs_repo: unpacked.example.org\ninput:\n"


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of version 2 whose entries, as YAML, begin in line 4."""

    def listed(entries: str, head: str = HEAD) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(head + entries)
        return load(path)

    return listed


def test_an_entry_says_what_is_special_about_its_image(listed):
    found = listed(
        """\
  - docker.io/library/debian:12
  - image: ghcr.io/group/tool
    platforms: [linux/amd64, linux/arm/v7]
    products: [flat, layers]
    tags:
      include: ['v1.*', 'v2.*']
      exclude: '*-rc*'
      keep_last: 3
  - {image: 'ghcr.io/group/other:v*', tags: {keep_last: 1}}
  - image: ghcr.io/group/plain:1
    platforms:
"""
    )
    assert (found.bad_entries, found.warnings) == ((), ())
    assert [(str(wish.reference), wish.line) for wish in found.wishes] == [
        ("https://docker.io/library/debian:12", 4),
        ("https://ghcr.io/group/tool:*", 5),
        ("https://ghcr.io/group/other:v*", 12),
        ("https://ghcr.io/group/plain:1", 13),
    ]
    _, tool, other, plain = (wish.wished for wish in found.wishes)
    assert tool.platforms == (Platform("linux", "amd64"), Platform("linux", "arm", "v7"))
    assert tool.products == ("layers", "flat")
    assert tool.tags == TagRules(("v1.*", "v2.*"), ("*-rc*",), 3)
    assert other.tags == TagRules(("v*",), (), 1)
    assert plain == found.wishes[0].wished


@pytest.mark.parametrize(
    ("entry", "line", "words"),
    [
        ("image: a.b/c:1\n    platform: linux/amd64", 5,
         "'a.b/c:1': 'platform' is no key of an entry; did you mean 'platforms'?"),
        ("image: a.b/c:1\n    colour: red", 5, "known are image, platforms, products, tags"),
        ("images: a.b/c:1\n    platforms: linux/amd64", 4,
         "the entry has no 'image'; did you mean 'image' for 'images'?"),
        ("platforms: linux/amd64", 4, "the entry has no 'image'; write it like"),
        ("image: [a.b/c:1]", 4, "'image' has a list; write it like image: "),
        ("image: a.b/c:1\n    platforms: [linux/amd64,\n      amd64]", 5,
         "'a.b/c:1': 'amd64' is not a platform; write it as os/architecture"),
        ("image: a.b/c:1\n    platforms: [linux/arm64, linux/arm64/v8]", 5, "the same place"),
        ("image: a.b/c:1\n    platforms: []", 5, "'platforms' has an empty list; write it like"),
        ("image: a.b/c:1\n    products: [layers, falt]", 5, "'falt'; did you mean 'flat'?"),
        ("image: a.b/c:1\n    products: [flat]", 5,
         "'layers' is missing in 'products'; write products: [layers, flat]"),
        ("image: a.b/c\n    tags:\n      keep: 3", 6, "'keep' is no key of 'tags'; "),
        ("image: a.b/c\n    tags:\n      keep_last: -1", 6, "'tags.keep_last' has '-1'"),
        ("image: a.b/c\n    tags:\n      keep_last: many", 6, "write it like keep_last: 3"),
        ("image: a.b/c\n    tags: [v1]", 5, "'tags' has a list; write it like tags: {"),
        ("image: a.b/c\n    tags:\n      include: ['a b']", 6, "'a b' in 'include' matches no tag"),
        ("image: a.b/c:1\n    tags:\n      keep_last: 3", 5, "'tags' to choose from"),
        ("image: a.b/c@sha256:" + "ab" * 32 + "\n    tags: {keep_last: 3}", 5, "or a digest"),
        ("image: a.b/c:v*\n    tags:\n      include: v1*", 6, "write all globs below 'include'"),
        ("image: a.b/c:1\n    image: a.b/c:2", 5, "'image' stands twice in the entry"),
        ("image: a.b/C:1", 4, "write - 'a.b/c:1'"),
        ("image: user:pass@a.b/c:1\n    colour: red", 5, "'colour' is no key of an entry"),
        ("image: 'a.b/c d:1'", 4, "has a blank in it"),
        ("a.b/c: 1", 4, "is no text to YAML, because of the colon"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_entry_names_it_its_line_and_the_mend(listed, entry, line, words):
    found = listed(f"  - {entry}\n  - docker.io/library/debian:12\n")
    [bad] = found.bad_entries
    assert f"recipe.yaml:{line}: " in str(bad)
    assert words in str(bad)
    assert "; " in str(bad)
    assert "pass" not in str(bad)
    assert [wish.reference.tag for wish in found.wishes] == ["12"]


def test_version_1_knows_no_mappings(listed):
    head = HEAD.replace("version: 2", "version: 1")
    [bad] = listed("  - image: a.b/c:1\n    platforms: linux/amd64\n", head).bad_entries
    assert "the entry is a mapping, which version 1 does not know; write 'version: 2'" in str(bad)


def test_the_same_image_with_other_tag_rules_is_no_duplicate(listed):
    found = listed(
        """\
  - {image: a.b/c, tags: {include: 'v1.*', keep_last: 2}}
  - {image: a.b/c, tags: {include: 'v2.*'}}
  - {image: a.b/c, tags: {include: 'v2.*'}}
"""
    )
    assert len(found.wishes) == 2
    assert ["duplicate" in warning for warning in found.warnings] == [True]


def test_an_entry_of_more_aliases_than_anybody_writes_is_refused(listed):
    many = "[" + ",".join("'v*'" for _ in range(400)) + "]"
    aliases = "[" + ",".join("*all" for _ in range(400)) + "]"
    found = listed(
        f"  - image: a.b/c\n    tags:\n      include: &all {many}\n      exclude: {aliases}\n"
    )
    assert "the entry is too large" in str(found.bad_entries[0])
