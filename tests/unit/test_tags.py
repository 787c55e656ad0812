from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duccmake.oci.tags import TagRules, version_order

_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,15}"
TAGS = ("latest", "1.8", "v1.9", "1.10", "1.10-slim", "1.11-rc1", "2.0", "nightly")


def test_without_rules_all_tags_are_wished_for():
    assert TagRules().choose(TAGS) == list(TAGS)


def test_a_tag_has_to_match_one_glob_and_none_that_excludes():
    rules = TagRules(include=("1.*", "v1.*"), exclude=("*-rc*", "*-slim"))
    assert rules.choose(TAGS) == ["1.8", "v1.9", "1.10"]


def test_the_last_are_the_newest_of_those_that_match_whatever_the_listing_s_order():
    rules = TagRules(include=("1.*", "v1.*"), exclude=("*-rc*", "*-slim"), keep_last=2)
    assert rules.choose(TAGS) == ["v1.9", "1.10"]
    assert rules.choose(reversed(TAGS)) == ["1.10", "v1.9"]


def test_what_is_attached_to_images_is_no_image():
    attached = [f"sha256-{'a' * 64}{end}" for end in ("", ".sig", ".att", ".sbom")]
    others = ["sha256-abc", f"sha256-{'a' * 64}-1"]
    assert TagRules().choose([*attached, *others]) == others
    assert not TagRules(include=("sha256-*",)).admits(attached[1])


def test_a_dot_in_a_glob_is_a_dot():
    assert TagRules(include=("1.1*",)).choose(["1.10", "1010"]) == ["1.10"]


@pytest.mark.parametrize(
    "older_first",
    [
        ("latest", "1"),
        ("1.9", "1.10"),
        ("v1.9", "1.10"),
        ("1.9", "v1.10"),
        ("1.9", "1.9.1"),
        ("1.0-alpha", "1.0-beta.2", "1.0-rc1", "1.0-rc10", "1.0", "1.0.1"),
        ("3.11", "3.11-alpine", "3.12"),
        ("20231231", "20240101"),
        ("2024-01-31", "2024-02-01"),
        ("release-9", "release-10"),
        ("main", "0.1"),
    ],
)
def test_versions_are_ordered_as_people_read_them(older_first):
    newer_first = list(reversed(older_first))
    assert sorted(newer_first, key=version_order) == list(older_first)


@given(st.from_regex(_TAG, fullmatch=True), st.from_regex(_TAG, fullmatch=True))
def test_any_two_tags_can_be_told_apart(one, other):
    assert (version_order(one) == version_order(other)) == (one.lower() == other.lower())
