"""Tags that moved: what they stood for stays reachable, and they can be pointed back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from duccmake.config.configuration import Config
from duccmake.errors import DuccmakeError, RepositoryError
from duccmake.jobs.collect_garbage import collect
from duccmake.jobs.rollback import choices, lift, roll_back
from duccmake.planning.departures import Listings
from duccmake.planning.poll_memory import PollMemory
from duccmake.planning.reconcile import Reconciliation, pin_in_words
from duccmake.planning.resolution import Resolution, Unresolved
from duccmake.recipe.parser import parse
from duccmake.registry.places import Places
from duccmake.repository import removal_schedule
from duccmake.repository.edits import Edits
from duccmake.repository.history import history_of
from duccmake.repository.inventory import Use, survey
from duccmake.repository.model import ChangeSet, Keep
from duccmake.repository.pins import Pin, pins_of, read_pins
from duccmake.repository.removal import withdraw
from support.on_disk import OnDisk
from support.staged_trees import TOP, file, flat_of, listing, stage
from support.staged_trees import publish as publish_changes

TAG = "r.example.org/team/app:1"
NOW = 1_800_000_000.0


@pytest.fixture
def move(repository, tmp_path):
    """Move the tag (or another) to a version, and return the image."""

    def to(version, *, keep=0, name=TAG, wished=()):
        change = stage(
            tmp_path / "staging",
            name,
            top=[*TOP, file("usr/share/version", version.encode())],
            config=version,
        )
        kept = Keep(keep, frozenset(wished))
        images = (replace(change.images[0], keep=kept, signatures={"policy": version}),)
        return publish_changes(repository, ChangeSet(change.layers, images))[0]

    return to


def by_digest(image):
    return f"r.example.org/team/app@{image.manifest}"


def reads(repository, name):
    return (repository.path / name / "usr/share/version").read_text()


def gc(repository, now=NOW + 1e9):
    return collect(repository, spoken_for=Use(), grace=0, batch=50, clock=lambda: now)


def test_the_last_digests_of_a_tag_stay_reachable_and_whole(repository, move):
    images = [move(version, keep=2) for version in "abcd"]
    gc(repository)
    assert [reads(repository, by_digest(image)) for image in images[1:3]] == ["b", "c"]
    assert reads(repository, TAG) == "d"
    assert list(repository.names()) == sorted([TAG, *map(by_digest, images[1:3])])
    assert [line for name in repository.names() for line in repository.verify(name)] == []
    assert not flat_of(repository, images[0]).exists()
    moves = history_of(repository)[TAG]
    assert [manifest for manifest, _ in moves] == [str(images[2].manifest), str(images[1].manifest)]


def test_without_history_a_moved_tag_leaves_no_name_behind(repository, move):
    move("a")
    move("b")
    assert list(repository.names()) == [TAG]
    assert history_of(repository) == {}


def test_what_goes_beyond_the_history_is_entered_for_removal(repository, move):
    first = move("a", keep=1)
    move("b", keep=1)
    move("c", keep=1)
    (entry,) = removal_schedule.parse(OnDisk(repository.path).remove_schedule.read_bytes())
    assert (entry.image, entry.why) == (by_digest(first), "beyond history.keep")


def test_a_digest_that_is_wished_for_itself_stays_when_the_history_ends(repository, move):
    first = move("a", keep=1)
    move("b", keep=1)
    move("c", keep=1, wished=[by_digest(first)])
    assert reads(repository, by_digest(first)) == "a"


def test_a_tag_that_goes_back_and_forth_has_each_digest_once(repository, move):
    for version in "ababab":
        last = move(version, keep=3)
    (before,) = history_of(repository)[TAG][:1]
    assert len({manifest for manifest, _ in history_of(repository)[TAG]}) == len(
        history_of(repository)[TAG]
    )
    assert before[0] != str(last.manifest)
    assert [line for name in repository.names() for line in repository.verify(name)] == []


def test_two_tags_that_left_one_digest_share_its_name(repository, move):
    other = "r.example.org/team/app:latest"
    first = move("a", keep=1)
    move("a", keep=1, name=other)
    move("b", keep=1)
    move("b", keep=1, name=other)
    move("c", keep=1)
    assert reads(repository, by_digest(first)) == "a", "the other tag's history still has it"
    move("c", keep=1, name=other)
    assert by_digest(first) not in list(repository.names())


def test_a_tag_is_pointed_back_to_what_its_history_has(repository, move):
    good = move("good", keep=1)
    bad = move("bad", keep=1)
    inode = flat_of(repository, good).stat().st_ino
    target = roll_back(repository, TAG, good.manifest.short, Keep(1), clock=lambda: NOW)
    assert target == good.manifest
    assert reads(repository, TAG) == "good"
    assert flat_of(repository, good).stat().st_ino == inode
    assert repository.record(TAG).manifest == good.manifest
    assert repository.record(TAG).signatures == {"policy": "good"}
    assert OnDisk(repository.path).manifest(TAG).read_bytes() == good.manifest_bytes
    assert repository.verify(TAG) == []
    assert pins_of(repository) == {TAG: Pin(good.manifest, NOW)}
    assert reads(repository, by_digest(bad)) == "bad"


def test_a_tag_is_pointed_back_within_the_time_of_grace_without_any_history(repository, move):
    good = move("good")
    before = listing(flat_of(repository, good))
    move("bad")
    roll_back(repository, TAG, str(good.manifest), Keep())
    assert repository.record(TAG).signatures == {"policy": "good"}
    assert listing((repository.path / TAG).resolve()) == before
    assert OnDisk(repository.path).manifest(TAG).read_bytes() == good.manifest_bytes
    assert gc(repository).flats == 1
    assert repository.verify(TAG) == []


def test_what_a_tag_was_is_told_from_other_images_the_latest_first(repository, move):
    first = move("first", keep=2)
    second = move("second", keep=2)
    move("third", keep=2)
    other = move("other", name="r.example.org/team/app:2")
    path = repository.path / ".metadata/history.json"
    moves = [
        {"manifest": str(one.manifest), "until": removal_schedule.timestamp(NOW + hours * 3600)}
        for one, hours in ((second, 2), (first, 1))
    ]
    path.write_text(json.dumps({TAG: moves}))
    found = choices(repository, TAG, 86400)
    assert list(found.items()) == [
        (second.manifest, "this tag's until 2027-01-15T10:00:00Z, kept by history.keep"),
        (first.manifest, "this tag's until 2027-01-15T09:00:00Z, kept by history.keep"),
        (other.manifest, "another name's: r.example.org/team/app:2"),
    ]


def test_what_waits_to_be_freed_says_until_when_it_is_kept(repository, move):
    first = move("first")
    move("second")
    [entry] = removal_schedule.parse(
        (repository.path / ".metadata/remove-schedule.json").read_bytes()
    )
    words = choices(repository, TAG, 86400)[first.manifest]
    assert words.endswith(
        f"kept for certain until {removal_schedule.timestamp(entry.since + 86400)}"
    )


def test_what_was_collected_cannot_be_gone_back_to_and_what_can_is_named(repository, move):
    first = move("first")
    second = move("second")
    gc(repository)
    move("third")
    with pytest.raises(DuccmakeError, match="still in the repository are") as caught:
        roll_back(repository, TAG, str(first.manifest), Keep())
    assert f"{second.manifest} (this tag's until 20" in str(caught.value)
    assert str(first.manifest) not in str(caught.value).partition("still in")[2]
    assert reads(repository, TAG) == "third"
    assert pins_of(repository) == {}


@pytest.mark.parametrize("digest", ["", "sha256:", "abc", "sha256:zzzzzz"])
def test_a_digest_that_names_nothing_changes_nothing(repository, move, digest):
    move("first")
    move("second")
    with pytest.raises(DuccmakeError, match="rollback"):
        roll_back(repository, TAG, digest, Keep())
    assert reads(repository, TAG) == "second"


def test_a_tag_can_be_held_where_it_is(repository, move):
    image = move("first")
    assert roll_back(repository, TAG, str(image.manifest), Keep()) == image.manifest
    assert list(pins_of(repository)) == [TAG]
    assert (
        removal_schedule.parse(
            OnDisk(repository.path).remove_schedule.read_bytes()
            if (OnDisk(repository.path).remove_schedule.exists())
            else b""
        )
        == []
    )


def test_a_pin_is_lifted_and_only_where_there_is_one(repository, move):
    image = move("first")
    roll_back(repository, TAG, str(image.manifest), Keep())
    lift(repository, TAG)
    assert pins_of(repository) == {}
    with pytest.raises(DuccmakeError, match="is not pinned; pinned are: none"):
        lift(repository, TAG)


def test_damaged_pins_are_refused_not_forgotten():
    with pytest.raises(RepositoryError, match="damaged"):
        read_pins(b'{"a": 1}')
    assert read_pins(b"") == {}


def test_a_run_says_what_is_held_and_how_to_let_it_go(move):
    image, other = move("one"), move("two")
    words = pin_in_words(TAG, Pin(image.manifest, NOW), other.manifest)
    assert words == (
        f"pinned to {image.manifest.short} since 2027-01-15T08:00:00Z; its registry has "
        f"{other.manifest.short}; 'snakemake unpin --cores 1 --config image={TAG}' lifts it"
    )


def test_a_tag_that_leaves_takes_its_history_with_it(repository, move):
    move("a", keep=2)
    move("b", keep=2)
    with repository.lock():
        edits = Edits(repository.view)
        withdraw(edits, {TAG: "gone"}, survey(repository.view), NOW)
        repository.edit(edits)
    assert json.loads(OnDisk(repository.path).history.read_bytes()) == {}


@pytest.mark.parametrize("why", ["a tag that leaves", "a shorter history", "pinned"])
def test_a_digest_that_is_wished_for_itself_stays_while_its_registry_cannot_say_what_it_is(
    repository, move, tmp_path, why
):
    first = move("a", keep=1)
    move("b", keep=1)
    lines = ["version: 1", f"cvmfs_repo: {repository.name}", "user: x", "input:"]
    wished = [f"https://{by_digest(first)}"] if why != "pinned" else []
    wished += [f"https://{TAG}"] if why == "a shorter history" else []
    lines += [f"  - {wish}" for wish in wished] or ["  []"]
    recipe = parse(tmp_path / "recipe.yaml", "\n".join(lines).encode())
    removal = {"policy": "schedule", "pinned": ["*@*"] if why == "pinned" else []}
    members = {"repository": {"root": "root"}, "history": {"keep": 0}, "removal": removal}
    missed = [Unresolved(by_digest(first), None, False, "404")] if wished else []
    missed += [Unresolved(TAG, None, False, "404")] if why == "a shorter history" else []
    config = Config.parse(members, workdir=tmp_path)
    resolution = Resolution((), tuple(missed))
    standing = Reconciliation(recipe, resolution, repository, config, {}, {})
    memory = PollMemory(tmp_path / "polls.json")
    leaving = standing.leaving(Listings(Places(Lists("1"))), memory).departures
    assert [item.name for item in leaving] == ([] if why == "a shorter history" else [TAG])


class Lists:
    """A registry that lists these tags."""

    def __init__(self, *listed):
        self.listed = list(listed)

    def tags(self, reference):
        return self.listed
