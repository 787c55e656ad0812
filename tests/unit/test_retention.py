"""Which of the tags that a glob brings in are given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.config.settings import RemovalSettings, Rule
from duccmake.oci.reference import Platform, Reference
from duccmake.planning.resolution import Resolved
from duccmake.planning.retention import given_up, seconds
from duccmake.recipe.parser import parse
from support.staged_trees import digest_of

DAY = 86400.0
NOW = 1_800_000_000.0
APP = "r.example.org/team/app"


def recipe(*images):
    lines = ["version: 1", "cvmfs_repo: unpacked.example.org", "user: x", "input:"]
    return parse(Path("r.yaml"), "\n".join([*lines, *(f"  - {i}" for i in images)]).encode())


def image(tag, base=APP, **members):
    reference = Reference.parse(f"https://{base}:{tag}")
    platform = Platform("linux", "amd64")
    return Resolved(reference, platform, False, digest_of("m"), digest_of("c"), **members)


def lost(*tags, rules, wished=(f"{APP}:*",), pinned=(), ages=None, published=()):
    images = [tag if isinstance(tag, Resolved) else image(tag) for tag in tags]
    settings = RemovalSettings(retention=tuple(rules), pinned=pinned)
    created = {tag: NOW - days * DAY for tag, days in (ages or {}).items()}
    found = given_up(
        recipe(*wished),
        images,
        settings,
        lambda item: created.get(item.reference.tag, 0.0),
        lambda path: path.rpartition(":")[2] in published,
        NOW,
    )
    return {name.rpartition(":")[2]: why for name, why in found.items()}


def test_the_newest_tags_stay_by_version():
    gone = lost("v1.9", "v1.10", "v1.2", "v1.1", rules=[Rule(f"{APP}:*", keep_last=2)])
    why = f"retention: not among the last 2 of {APP}:*"
    assert gone == {"v1.2": why, "v1.1": why}


def test_images_of_the_last_days_stay_and_so_do_the_newest():
    rule = Rule(f"{APP}:*", keep_last=1, keep_days=10)
    gone = lost("1", "2", "3", "4", rules=[rule], ages={"1": 30, "2": 5, "3": 20, "4": 40})
    assert set(gone) == {"1", "3"}


def test_an_image_of_unknown_age_is_never_too_old():
    gone = lost("1", "2", rules=[Rule(f"{APP}:*", keep_days=10)], ages={"2": 11})
    assert set(gone) == {"2"}


def test_the_first_rule_that_matches_decides():
    rules = [Rule(f"{APP}:v*"), Rule("*", keep_last=1)]
    assert set(lost("v1", "v2", "n1", "n2", rules=rules)) == {"n1"}


def test_rules_count_for_each_repository():
    other = [image("1", "r.example.org/team/other")]
    gone = lost("1", "2", *other, rules=[Rule("r.example.org/*", keep_last=1)])
    assert set(gone) == {"1"}
    assert len(gone) == 1


def test_images_that_are_named_in_full_or_pinned_stay():
    rules = [Rule("*", keep_last=1)]
    assert set(lost("1", "2", "3", rules=rules, wished=(f"{APP}:*", f"{APP}:1"))) == {"2"}
    assert set(lost("1", "2", "3", rules=rules, pinned=(f"{APP}:1",))) == {"2"}


def test_while_a_registry_is_not_reached_nothing_leaves_and_nothing_comes_back():
    stale = image("3", stale="registry not reached")
    gone = lost("1", "2", stale, rules=[Rule("*", keep_last=1)], published=["2", "3"])
    assert set(gone) == {"1"}


def test_platforms_of_an_image_are_counted_apart():
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    images = [
        replace(image(tag), platform=platform, platforms=platforms)
        for tag in ("1", "2")
        for platform in platforms
    ]
    found = given_up(
        recipe(f"{APP}:*"),
        images,
        RemovalSettings(retention=(Rule("*", keep_last=1),)),
        lambda item: 0.0,
        lambda path: True,
        NOW,
    )
    assert set(found) == {f".multiarch/{label}/{APP}:1" for label in ("amd64", "arm64")}


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("2026-11-01T10:00:00Z", True),
        ("2026-11-01T10:00:00.123456789+02:00", True),
        ("1970-01-01T00:00:00Z", False),
        ("0001-01-01T00:00:00Z", False),
        ("", False),
        ("yesterday", False),
    ],
)
def test_dates_of_reproducible_builds_are_no_ages(text, known):
    assert bool(seconds(text)) is known
