"""A removal that ends at any point: what readers see, and what the next one makes of it."""

from __future__ import annotations

import shutil
import signal
from itertools import count

import pytest
from staged_trees import TOP, file, listing, open_repository, publish, stage
from test_directory_crashes import copy_tree, crash_after, leftovers, memory, start

from duccmake.collect import collect
from duccmake.departures import prune
from duccmake.errors import RepositoryLocked
from duccmake.pins import pins, roll_back
from duccmake.plan import Departure
from duccmake.repository import Keep, schedule
from duccmake.repository.usage import Use, survey

__all__ = ["memory"]

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
    found = survey(repository.layout)
    assert found.strange == ()
    assert found.unread == ()


def end(repository, before):
    """Whatever was interrupted, the next removal comes to the same."""
    collected(repository)
    check(repository, before)
    found = survey(repository.layout)
    assert found.present.layers == found.used.layers
    assert found.present.flats == found.used.flats
    assert schedule.parse(repository.layout.remove_schedule.read_bytes()) == []


def test_a_crash_at_any_step_of_the_first_phase_leaves_the_image_or_its_entry(memory, monkeypatch):
    repository = prepared(memory / "template", withdrawn=False)
    before = listing((repository.path / STAYS).resolve())
    outcomes = set()
    for steps in count():
        case = memory / "case"
        copy_tree(memory / "template", case)
        repository = open_repository(case)
        done = crash_after(monkeypatch, steps, pruned, repository, departures(repository))
        repository = open_repository(case)
        with repository.lock():
            pass
        check(repository, before)
        there = (repository.path / GOES).is_symlink()
        listed = repository.layout.remove_schedule.exists()
        assert there == (repository.record(GOES) is not None) != listed
        outcomes.add(there)
        if there:
            pruned(repository, departures(repository))
        end(repository, before)
        shutil.rmtree(case)
        if done:
            break
    assert outcomes == {True, False}
    assert steps > 20


def test_a_crash_at_any_step_of_the_second_phase_takes_nothing_from_another(memory, monkeypatch):
    repository = prepared(memory / "template", withdrawn=True)
    before = listing((repository.path / STAYS).resolve())
    for steps in count():
        case = memory / "case"
        copy_tree(memory / "template", case)
        done = crash_after(monkeypatch, steps, collected, open_repository(case))
        repository = open_repository(case)
        assert repository.verify(STAYS) == [], "before anything is recovered"
        with repository.lock():
            pass
        check(repository, before)
        end(repository, before)
        shutil.rmtree(case)
        if done:
            break
    assert steps > 40


def test_a_crash_while_a_tag_is_pointed_back_leaves_one_image_or_the_other(memory, monkeypatch):
    tag = "host/b:goes"
    repository = prepared(memory / "template", withdrawn=False)
    old = str(repository.record(tag).manifest)
    top = [*TOP, file("usr/share/version", b"3")]
    publish(repository, stage(memory / "template/staging", tag, top=top, config="new"))
    outcomes = set()
    for steps in count():
        case = memory / "case"
        copy_tree(memory / "template", case)
        done = crash_after(monkeypatch, steps, roll_back, open_repository(case), tag, old, Keep(2))
        repository = open_repository(case)
        with repository.lock():
            pass
        assert repository.verify(tag) == []
        back = str(repository.record(tag).manifest) == old
        assert back == (tag in pins(repository))
        assert leftovers(repository.path) == []
        outcomes.add(back)
        shutil.rmtree(case)
        if done:
            break
    assert outcomes == {True, False}


CHILD = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from test_removal_crashes import collected, departures, open_repository, pruned

base, phase, stop_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
real = {name: getattr(os, name) for name in ("rename", "unlink", "rmdir", "mkdir")}
calls = 0

def stopping(name):
    def call(*arguments, **more):
        global calls
        calls += 1
        if calls == stop_at:
            print("here", flush=True)
            sys.stdin.read()
        return real[name](*arguments, **more)
    return call

repository = open_repository(base, durable=True)
leaving = departures(repository) if phase == "prune" else []
for name in real:
    setattr(os, name, stopping(name))
pruned(repository, leaving) if phase == "prune" else collected(repository)
print("done", flush=True)
"""


@pytest.mark.parametrize("phase", ["prune", "gc"])
def test_a_killed_removal_leaves_neither_lock_nor_half_a_tree(memory, phase):
    repository = prepared(memory / "template", withdrawn=phase == "gc")
    before = listing((repository.path / STAYS).resolve())
    for stop_at in count(1, 9):
        case = memory / f"case{stop_at}"
        copy_tree(memory / "template", case)
        repository = open_repository(case)
        with start(CHILD, case, phase, stop_at) as child:
            said = child.stdout.readline().strip()
            if said == "here":
                assert repository.verify(STAYS) == []
            child.send_signal(signal.SIGKILL)
        if said == "done":
            break
        assert said == "here"
        try:
            with repository.lock():
                pass
        except RepositoryLocked:
            pytest.fail("the lock outlived its holder")
        check(repository, before)
        if (repository.path / GOES).is_symlink():
            pruned(repository, departures(repository))
        end(repository, before)
    assert stop_at > 1
