"""Which images leave, and what keeps them: nothing that is not known for sure makes one go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.config.settings import RemovalSettings
from duccmake.errors import DuccmakeError, NotFound, RegistryUnavailable, Unauthorized
from duccmake.oci.reference import Platform, Reference
from duccmake.oci.tags import TagRules
from duccmake.planning.departures import Listings, leaving
from duccmake.planning.model import Departure
from duccmake.planning.poll_memory import PollMemory
from duccmake.planning.removal import check_share
from duccmake.planning.resolution import Resolution, Resolved, Unresolved
from duccmake.recipe.entry import Wished
from duccmake.recipe.parser import parse
from duccmake.registry.places import Places
from support.staged_trees import digest_of

HOUR = 3600.0
NOW = 1_800_000_000.0
AMD = Platform("linux", "amd64")
APP = "r.example.org/team/app"
SETTINGS = RemovalSettings(policy="schedule", confirm=24 * HOUR)


def recipe(*images, **members):
    lines = ["version: 1", "cvmfs_repo: unpacked.example.org", "user: x", "input:"]
    lines += [f"  - {image}" for image in images] or ["  []"]
    return replace(parse(Path("recipe.yaml"), "\n".join(lines).encode()), **members)


def resolved(name, **members):
    return Resolved(
        Reference.parse(f"https://{name}"),
        AMD,
        False,
        digest_of(f"m {name}"),
        digest_of(f"c {name}"),
        **members,
    )


class Tags:
    """A registry that lists these tags, or raises this error; counts how often it was asked.

    Asked for a tag that it does not list, it raises ``missing``, or has it all the same.
    All other repositories have what they are asked for.
    """

    def __init__(self, answer, missing=None):
        self.answer = answer
        self.missing = missing or unknown("MANIFEST_UNKNOWN")
        self.asked = 0
        self.polled = []

    def tags(self, reference):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return list(self.answer)

    def poll(self, reference):
        self.polled.append(reference.name)
        there = isinstance(self.answer, list | tuple) and reference.tag in self.answer
        if not there and reference.name.startswith(APP) and self.missing != "served":
            raise self.missing
        return digest_of(reference.name)


def unknown(code=""):
    error = NotFound("404")
    error.code = code
    return error


class Case:
    """What is published and remembered; `poll` is one poll of it."""

    def __init__(self, tmp_path, *published, settings=SETTINGS):
        self.published = published
        self.memory = PollMemory(tmp_path / "polls.json")
        self.settings = settings
        self.warnings = []

    def poll(self, wished, *, found=(), missed=(), tags=(), now=NOW, **more):
        source = tags if isinstance(tags, Tags) else Tags(tags)
        answered = [item.reference for item in (*found, *more.pop("known", ()))]
        result = leaving(
            wished,
            Resolution(tuple(found), tuple(missed)),
            self.published,
            more.pop("manifest_of", lambda name: str(digest_of(name))),
            listings=Listings(Places(source), answered),
            memory=self.memory,
            settings=self.settings,
            now=now,
            **more,
        )
        self.warnings = result.warnings
        return {item.name: item.why for item in result.departures}


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path, f"{APP}:1", f"{APP}:2")


def missing(name, *, passing=False):
    return Unresolved(name, AMD, False, "404" if not passing else "down", passing)


def test_what_the_wish_list_does_not_name_any_more_leaves(case):
    gone = case.poll(recipe(f"{APP}:1"), found=[resolved(f"{APP}:1")])
    assert gone == {f"{APP}:2": "not in the wish list any more"}


def test_an_empty_wish_list_lets_everything_leave(case):
    assert set(case.poll(recipe())) == {f"{APP}:1", f"{APP}:2"}


def test_an_entry_that_cannot_be_read_keeps_all(case):
    wished = recipe(f"{APP}:1", "r.example.org/Team/app:2")
    assert case.poll(wished, found=[resolved(f"{APP}:1")]) == {}
    assert (
        "1 image is not wished for any more, as far as can be read, and kept" in (case.warnings[0])
    )
    assert "recipe.yaml:6" in case.warnings[0]


def test_a_wish_list_that_could_not_be_fetched_keeps_all(case):
    wished = recipe(f"{APP}:1", stale="https://example.org/list: no answer")
    assert case.poll(wished, found=[resolved(f"{APP}:1")]) == {}
    assert "no answer" in case.warnings[0]


def test_an_image_that_duccmake_did_not_publish_stays_and_is_told(case):
    assert case.poll(recipe(), manifest_of=lambda name: "") == {}
    assert "2 images are not published by duccmake" in case.warnings[0]


def test_policy_keep_tells_of_what_it_keeps(tmp_path):
    case = Case(tmp_path, f"{APP}:1", settings=RemovalSettings())
    assert case.poll(recipe()), "the target 'prune' can be asked for all the same"
    assert "kept, as removal.policy says; see 'snakemake prune -n'" in case.warnings[0]


@pytest.mark.parametrize("pattern", ["r.example.org/*", f"{APP}:?"])
def test_pinned_images_stay(tmp_path, pattern):
    case = Case(tmp_path, f"{APP}:1", settings=replace(SETTINGS, pinned=(pattern,)))
    assert case.poll(recipe()) == {}


def test_a_tag_has_to_be_gone_on_two_polls_that_are_far_enough_apart(case):
    wished, missed = recipe(f"{APP}:1", f"{APP}:2"), [missing(f"{APP}:2")]
    polled = {"found": [resolved(f"{APP}:1")], "missed": missed, "tags": ["1"]}
    assert case.poll(wished, **polled) == {}
    assert "a poll after 2027-01-16T08:00:00Z decides" in case.warnings[0]
    assert case.poll(wished, **polled, now=NOW + 23 * HOUR) == {}
    gone = case.poll(wished, **polled, now=NOW + 24 * HOUR)
    assert gone == {f"{APP}:2": "its tag is gone from the registry"}


def test_two_polls_are_needed_even_if_no_time_has_to_pass(tmp_path):
    case = Case(tmp_path, f"{APP}:2", settings=replace(SETTINGS, confirm=0))
    polled = {"missed": [missing(f"{APP}:2")], "tags": ["1"]}
    assert case.poll(recipe(f"{APP}:2"), **polled) == {}
    assert set(case.poll(recipe(f"{APP}:2"), **polled)) == {f"{APP}:2"}


def test_a_tag_that_was_there_in_between_begins_anew(case):
    wished, gone = recipe(f"{APP}:2", f"{APP}:1"), [missing(f"{APP}:2")]
    case.poll(wished, found=[resolved(f"{APP}:1")], missed=gone, tags=["1"])
    back = [resolved(f"{APP}:1"), resolved(f"{APP}:2")]
    case.poll(wished, found=back, now=NOW + 10 * HOUR)
    late = {"found": [resolved(f"{APP}:1")], "missed": gone, "tags": ["1"]}
    assert case.poll(wished, **late, now=NOW + 30 * HOUR) == {}


def test_what_is_noted_of_absences_outlives_the_process(tmp_path, case):
    wished, missed = recipe(f"{APP}:1", f"{APP}:2"), [missing(f"{APP}:2")]
    polled = {"found": [resolved(f"{APP}:1")], "missed": missed, "tags": ["1"]}
    case.poll(wished, **polled)
    case.memory.save()
    case.memory = PollMemory(tmp_path / "polls.json")
    assert case.poll(wished, **polled, now=NOW + 25 * HOUR)


@pytest.mark.parametrize(
    "answer",
    [
        unknown(),
        unknown("UNKNOWN"),
        Unauthorized("401"),
        RegistryUnavailable("503"),
        DuccmakeError("something else"),
    ],
    ids=["404 of a proxy", "another 404", "401", "503", "else"],
)
def test_no_error_of_a_registry_makes_an_image_leave(case, answer):
    wished = recipe(f"{APP}:*")
    for now in (NOW, NOW + 48 * HOUR, NOW + 1000 * HOUR):
        assert case.poll(wished, missed=[missing(f"{APP}:*")], tags=answer, now=now) == {}
        named = recipe(f"{APP}:1", f"{APP}:2")
        missed = [missing(f"{APP}:1"), missing(f"{APP}:2")]
        assert case.poll(named, missed=missed, tags=answer, now=now) == {}


@pytest.mark.parametrize("code", ["MANIFEST_UNKNOWN", "NAME_UNKNOWN"])
def test_a_repository_that_the_registry_says_it_does_not_know_is_gone(case, code):
    """What it says of the tags themselves differs among registries."""
    wished, other = recipe(f"{APP}:*"), [resolved("r.example.org/team/other:1")]
    tags = Tags(unknown("NAME_UNKNOWN"), missing=unknown(code))
    assert case.poll(wished, tags=tags, known=other) == {}
    gone = case.poll(wished, tags=tags, known=other, now=NOW + 25 * HOUR)
    assert set(gone) == {f"{APP}:1", f"{APP}:2"}


@pytest.mark.parametrize("known", [[], [f"{APP}:3"], ["other.example.org/team/other:1"]])
def test_a_registry_that_knows_no_other_repository_either_may_have_lost_all(case, known):
    wished, others = recipe(f"{APP}:*"), [resolved(name) for name in known]
    for now in (NOW, NOW + 25 * HOUR, NOW + 100 * HOUR):
        assert case.poll(wished, tags=unknown("NAME_UNKNOWN"), known=others, now=now) == {}


def test_a_tag_that_is_served_though_no_list_has_it_stays(case):
    tags, wished = Tags(["1"], missing="served"), recipe(f"{APP}:*")
    for now in (NOW, NOW + 25 * HOUR, NOW + 100 * HOUR):
        assert case.poll(wished, found=[resolved(f"{APP}:1")], tags=tags, now=now) == {}
    assert not case.warnings


@pytest.mark.parametrize(
    "missing",
    [unknown(), unknown("NOT_FOUND"), Unauthorized("403"), RegistryUnavailable("503")],
    ids=["404 of a proxy", "another 404", "403", "503"],
)
def test_a_tag_that_no_list_has_is_gone_only_by_the_word_that_says_so(case, missing):
    wished = recipe(f"{APP}:*")
    for now in (NOW, NOW + 25 * HOUR, NOW + 100 * HOUR):
        tags = Tags(["1"], missing=missing)
        assert case.poll(wished, found=[resolved(f"{APP}:1")], tags=tags, now=now) == {}


def test_a_tag_is_asked_for_itself_in_the_first_poll_and_in_the_one_that_decides(case):
    wished, tags = recipe(f"{APP}:*"), Tags(["1"])
    polled = {"found": [resolved(f"{APP}:1")], "tags": tags}
    case.poll(wished, **polled)
    case.poll(wished, **polled, now=NOW + 10 * HOUR)
    assert tags.polled == [f"{APP}:2"]
    tags.missing = "served"
    assert case.poll(wished, **polled, now=NOW + 25 * HOUR) == {}
    tags.missing = unknown("MANIFEST_UNKNOWN")
    assert case.poll(wished, **polled, now=NOW + 26 * HOUR) == {}
    assert set(case.poll(wished, **polled, now=NOW + 51 * HOUR)) == {f"{APP}:2"}


def test_a_failure_that_may_pass_asks_nothing(case):
    tags = Tags(["none"])
    missed = [missing(f"{APP}:1", passing=True), missing(f"{APP}:2", passing=True)]
    assert case.poll(recipe(f"{APP}:1", f"{APP}:2"), missed=missed, tags=tags) == {}
    assert tags.asked == 0


def test_a_tag_that_is_listed_though_its_manifest_is_not_there_stays(case):
    polled = {"missed": [missing(f"{APP}:2")], "found": [resolved(f"{APP}:1")], "tags": ["1", "2"]}
    wished = recipe(f"{APP}:1", f"{APP}:2")
    case.poll(wished, **polled)
    assert case.poll(wished, **polled, now=NOW + 100 * HOUR) == {}


@pytest.mark.parametrize("passing", [True, False], ids=["503", "401"])
def test_a_glob_that_failed_to_be_listed_and_is_listed_a_moment_later_keeps_all(case, passing):
    wished, missed = recipe(f"{APP}:*"), [missing(f"{APP}:*", passing=passing)]
    for now in (NOW, NOW + 100 * HOUR):
        assert case.poll(wished, missed=missed, tags=["1", "2"], now=now) == {}


def test_an_image_of_a_glob_that_cannot_be_read_stays(case):
    polled = {"found": [resolved(f"{APP}:1")], "missed": [missing(f"{APP}:2")], "tags": ["1", "2"]}
    for now in (NOW, NOW + 100 * HOUR):
        assert case.poll(recipe(f"{APP}:*"), **polled, now=now) == {}


def test_a_tag_that_rules_do_not_let_pass_any_more_leaves(case):
    rules = TagRules(("*",), keep_last=1)
    wished = recipe(f"{APP}:*")
    wish = replace(wished.wishes[0], wished=Wished(tags=rules))
    wished = replace(wished, wishes=(wish,))
    assert case.poll(wished, found=[resolved(f"{APP}:2")], tags=["1", "2"]) == {
        f"{APP}:1": "its tag is not among those that are wished for"
    }


def test_a_name_with_tag_and_digest_is_none_that_a_glob_brought(tmp_path):
    name = f"{APP}:1@{digest_of('x')}"
    case = Case(tmp_path, name)
    assert case.poll(recipe(f"{APP}:*"), tags=["1"]) == {name: "not in the wish list any more"}


def test_a_tag_that_vanished_from_a_globs_listing_is_confirmed_as_well(case):
    polled = {"found": [resolved(f"{APP}:1")], "tags": ["1", "3"]}
    assert case.poll(recipe(f"{APP}:*"), **polled) == {}
    assert set(case.poll(recipe(f"{APP}:*"), **polled, now=NOW + 25 * HOUR)) == {f"{APP}:2"}


def test_a_registry_is_asked_for_its_tags_once_and_only_if_something_is_missing(tmp_path):
    case = Case(tmp_path, *(f"{APP}:{number}" for number in range(10)))
    tags = Tags(["0"])
    case.poll(recipe(f"{APP}:*"), found=[resolved(f"{APP}:0")], tags=tags)
    assert tags.asked == 1
    found = [resolved(f"{APP}:{number}") for number in range(10)]
    case.poll(recipe(f"{APP}:*"), found=found, tags=tags)
    assert tags.asked == 1


def test_digests_never_vanish(tmp_path):
    name = f"{APP}@{digest_of('x')}"
    case = Case(tmp_path, name)
    for now in (NOW, NOW + 100 * HOUR):
        assert case.poll(recipe(name), missed=[missing(name)], tags=[], now=now) == {}


def test_an_oci_layout_that_is_not_there_says_nothing_of_its_tags(tmp_path):
    listings = Listings(Places(Tags([])))
    nowhere = Reference.parse(f"oci:{tmp_path}/nowhere:1")
    assert listings.lists(nowhere) is listings.lacks(nowhere) is None
    (tmp_path / "index.json").write_text('{"manifests": []}')
    here = Reference.parse(f"oci:{tmp_path}:1")
    assert listings.lists(here) is False and listings.lacks(here) is True
    assert listings.lists(Reference.parse(f"oci:{tmp_path}")) is None


def test_what_retention_gives_up_leaves_with_its_reason(case):
    found = [resolved(f"{APP}:1"), resolved(f"{APP}:2")]
    gone = case.poll(recipe(f"{APP}:*"), found=found, retired={f"{APP}:1": "too old"})
    assert gone == {f"{APP}:1": "too old"}


def departure(number):
    return Departure("unpacked.example.org", f"{APP}:{number}", "sha256:0", "why")


@pytest.mark.parametrize(
    ("count", "total", "percent", "allowed"),
    [
        (1, 10, 10, True),
        (2, 10, 10, False),
        (1, 3, 10, True),
        (1, 1, 0.1, True),
        (2, 3, 10, False),
        (5, 5, 100, True),
        (1, 100, 0, False),
    ],
)
def test_no_more_than_a_share_of_the_images_may_leave_at_once(count, total, percent, allowed):
    leaving = [departure(number) for number in range(count)]
    if allowed:
        check_share(leaving, total, max_percent=percent, force=False)
        return
    with pytest.raises(DuccmakeError, match=rf"{count} of {total} images .*force_removal=true"):
        check_share(leaving, total, max_percent=percent, force=False)
    check_share(leaving, total, max_percent=percent, force=True)


# --- several platforms --------------------------------------------------

ARM = Platform("linux", "arm64")


def on(platform, name):
    return Reference.parse(f"https://{name}").name_on(platform)


def on_both(name):
    """The image as it is found for two platforms."""
    found = resolved(name, platforms=(AMD, ARM))
    return [found, replace(found, platform=ARM)]


def test_an_image_of_one_platform_does_not_leave_before_it_is_there_for_several(tmp_path):
    case = Case(tmp_path, f"{APP}:1")
    assert case.poll(recipe(f"{APP}:*"), found=on_both(f"{APP}:1"), tags=["1"]) == {}


def test_platforms_that_are_not_wished_for_any_more_leave(tmp_path):
    case = Case(tmp_path, f"{APP}:1", on(AMD, f"{APP}:1"), on(ARM, f"{APP}:1"))
    gone = case.poll(recipe(f"{APP}:1"), found=[resolved(f"{APP}:1")], tags=["1"])
    assert gone == {
        on(AMD, f"{APP}:1"): "it is not wished for on amd64 any more",
        on(ARM, f"{APP}:1"): "it is not wished for on arm64 any more",
    }


def test_all_platforms_of_what_is_not_wished_for_leave(tmp_path):
    case = Case(tmp_path, on(AMD, f"{APP}:1"), on(ARM, f"{APP}:1"))
    assert case.poll(recipe()) == dict.fromkeys(case.published, "not in the wish list any more")


@pytest.mark.parametrize("passing", [True, False])
def test_a_platform_that_cannot_be_had_now_stays(tmp_path, passing):
    case = Case(tmp_path, on(AMD, f"{APP}:1"), on(ARM, f"{APP}:1"))
    lacking = Unresolved(f"{APP}:1", ARM, False, "no arm64", passing, on(ARM, f"{APP}:1"))
    found = on_both(f"{APP}:1")[:1]
    assert case.poll(recipe(f"{APP}:1"), found=found, missed=[lacking], tags=["1"]) == {}


def test_pinned_images_stay_on_all_platforms(tmp_path):
    settings = replace(SETTINGS, pinned=(f"{APP}:1",))
    case = Case(tmp_path, on(AMD, f"{APP}:1"), settings=settings)
    assert case.poll(recipe()) == {}
