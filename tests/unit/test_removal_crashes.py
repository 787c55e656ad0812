"""A removal that ends at any point: what readers see, and what the next one makes of it."""

from __future__ import annotations

from functools import partial

import pytest

from duccmake.errors import RepositoryLocked
from duccmake.jobs.collect_garbage import collect
from duccmake.jobs.prune_images import prune
from duccmake.jobs.rollback import roll_back
from duccmake.planning.model import Departure
from duccmake.repository import removal_schedule
from duccmake.repository.inventory import Use, survey
from duccmake.repository.model import Keep
from duccmake.repository.pins import pins_of
from support.crashes import each_crash, each_stop, leftovers
from support.on_disk import OnDisk
from support.staged_trees import TOP, file, listing, open_repository, publish, stage

NOW = 1_800_000_000.0
STAYS, GOES = "host/a:stays", "host/b:goes"


def departures(repository):
    manifest = str(repository.description(GOES).manifest)
    return [Departure(repository.name, GOES, manifest, "not wished for")]


def pruned(repository, leaving):
    prune(repository, leaving, max_percent=100, force=False, clock=lambda: NOW)


def collected(repository, batch=1):
    collect(repository, spoken_for=Use(), grace=0, batch=batch, clock=lambda: NOW + 1)


def prepared(base, *, withdrawn):
    """Two images with a layer in common; one of them has left, if that is asked for."""
    repository = open_repository(base)
    publish(repository, stage(base / "staging", STAYS, config="stays"))
    top = [*TOP, file("usr/share/version", b"2")]
    publish(repository, stage(base / "staging", GOES, top=top, config="goes"))
    if withdrawn:
        pruned(repository, departures(repository))
    return repository


def check(repository, before):
    """The image that stays is as it was, and the other is whole or not there."""
    assert repository.verify(STAYS) == []
    assert listing((repository.path / STAYS).resolve()) == before
    assert leftovers(repository.path) == []
    if (repository.path / GOES).is_symlink():
        assert repository.verify(GOES) == []
    found = survey(repository.view)
    assert found.strange == ()
    assert found.unread == ()


def end(repository, before):
    """Whatever was interrupted, the next removal comes to the same."""
    collected(repository)
    check(repository, before)
    found = survey(repository.view)
    assert found.present.layers == found.used.layers
    assert found.present.flats == found.used.flats
    assert removal_schedule.parse(OnDisk(repository.path).remove_schedule.read_bytes()) == []


def test_a_crash_at_any_step_of_the_first_phase_leaves_the_image_or_its_entry(memory, monkeypatch):
    repository = prepared(memory / "template", withdrawn=False)
    before = listing((repository.path / STAYS).resolve())
    outcomes, crashes = set(), 0
    for case in each_crash(memory / "template", monkeypatch):
        repository = open_repository(case.path)
        case.attempt(pruned, repository, departures(repository))
        repository = open_repository(case.path)
        with repository.lock():
            pass
        check(repository, before)
        there = (repository.path / GOES).is_symlink()
        listed = OnDisk(repository.path).remove_schedule.exists()
        assert there == (repository.record(GOES) is not None) != listed
        outcomes.add(there)
        if there:
            pruned(repository, departures(repository))
        end(repository, before)
        crashes += not case.done
    assert outcomes == {True, False}
    assert crashes > 20


def test_a_crash_at_any_step_of_the_second_phase_takes_nothing_from_another(memory, monkeypatch):
    repository = prepared(memory / "template", withdrawn=True)
    before = listing((repository.path / STAYS).resolve())
    crashes = 0
    for case in each_crash(memory / "template", monkeypatch):
        case.attempt(collected, open_repository(case.path))
        repository = open_repository(case.path)
        assert repository.verify(STAYS) == [], "before anything is recovered"
        with repository.lock():
            pass
        check(repository, before)
        end(repository, before)
        crashes += not case.done
    assert crashes > 40


def test_a_crash_while_a_tag_is_pointed_back_leaves_one_image_or_the_other(memory, monkeypatch):
    tag = "host/b:goes"
    repository = prepared(memory / "template", withdrawn=False)
    old = str(repository.record(tag).manifest)
    top = [*TOP, file("usr/share/version", b"3")]
    publish(repository, stage(memory / "template/staging", tag, top=top, config="new"))
    outcomes = set()
    for case in each_crash(memory / "template", monkeypatch):
        case.attempt(roll_back, open_repository(case.path), tag, old, Keep(2))
        repository = open_repository(case.path)
        with repository.lock():
            pass
        assert repository.verify(tag) == []
        back = str(repository.record(tag).manifest) == old
        assert back == (tag in pins_of(repository))
        assert leftovers(repository.path) == []
        outcomes.add(back)
    assert outcomes == {True, False}


def pruning(base):
    repository = open_repository(base, durable=True)
    return partial(pruned, repository, departures(repository))


def collecting(base):
    return partial(collected, open_repository(base, durable=True))


@pytest.mark.parametrize("phase", ["prune", "gc"])
def test_a_killed_removal_leaves_neither_lock_nor_half_a_tree(memory, phase):
    template = memory / "template"
    repository = prepared(template, withdrawn=phase == "gc")
    before = listing((repository.path / STAYS).resolve())
    prepare = pruning if phase == "prune" else collecting
    killed = 0
    for child in each_stop(
        template, prepare, before=("rename", "unlink", "rmdir", "mkdir"), every=9
    ):
        repository = open_repository(child.path)
        assert repository.verify(STAYS) == []
        child.kill()
        try:
            with repository.lock():
                pass
        except RepositoryLocked:
            pytest.fail("the lock outlived its holder")
        check(repository, before)
        if (repository.path / GOES).is_symlink():
            pruned(repository, departures(repository))
        end(repository, before)
        killed += 1
    assert killed
