"""A publisher that ends at any point: what readers see, and what the next one makes of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from duccmake.errors import RepositoryLocked
from duccmake.repository.model import ChangeSet
from duccmake.tree import mtree
from support import staged_trees as make
from support.crashes import copy_tree, crash_after, each_crash, each_stop, leftovers
from support.on_disk import OnDisk
from support.staged_trees import (
    NAME,
    directory,
    file,
    listing,
    open_repository,
    publish,
    stage,
    stage_image,
    stage_layer,
    symlink,
    whiteout,
)


def states(path):
    """What readers see of an image."""
    link = path / "root/unpacked.example.org" / NAME
    return listing(link.resolve()) if link.is_symlink() else None


def test_a_crash_at_any_step_leaves_the_old_or_the_new_image_whole(memory, monkeypatch):
    """The first publication, then a moved tag, each interrupted after every system call."""
    template = memory / "template"
    first, _ = two_moves(template)
    publish(open_repository(template), first)
    old_state = states(template)
    outcomes, crashes = set(), 0
    for case in each_crash(template, monkeypatch):
        _, change = two_moves(case.path)
        case.attempt(publish, open_repository(case.path), change)

        seen = states(case.path)
        if seen != old_state:
            assert set(seen) == set(change_paths(change))
        fresh = open_repository(case.path)
        with fresh.lock():
            pass
        after = states(case.path)
        assert after == old_state or set(after) == set(change_paths(change))
        assert seen == old_state or after == seen, "what readers saw was taken back"
        outcomes.add(after == old_state)
        assert leftovers(fresh.path) == []
        assert fresh.verify(NAME) == []

        publish(fresh, stage_missing(case.path, change))
        assert set(states(case.path)) == set(change_paths(change))
        assert fresh.verify(NAME) == []
        assert leftovers(fresh.path) == []
        crashes += not case.done
    assert outcomes == {True, False}
    assert crashes > 100


OLD = [directory("."), directory("d", 0o750), file("d/f", b"old", 0o600), file("d/gone", b"g")]
NEW = [
    directory(".", flags=frozenset({b"implied"})),
    directory("d", flags=frozenset({b"implied"})),
    file("d/f", b"new"),
    whiteout("d/gone"),
    directory("e"),
    symlink("e/link", "../d/f"),
]


def two_moves(base):
    """Two change sets for one name; the second has a layer more."""
    staging = base / "staging"
    old = stage_layer(staging, "old", OLD)
    first_image = stage_image(base / "images1", NAME, [(old, OLD)], config="one")
    new = stage_layer(staging, "new", NEW)
    second_image = stage_image(base / "images2", NAME, [(old, OLD), (new, NEW)], config="two")
    return ChangeSet((old,), (first_image,)), ChangeSet((old, new), (second_image,))


def change_paths(change):
    (image,) = change.images
    return [os.fsdecode(entry.path) for entry in mtree.read(image.path / "tree.mtree")]


def stage_missing(base, change):
    specs = {make.digest_of("old"): ("old", OLD), make.digest_of("new"): ("new", NEW)}
    layers = [
        layer
        if (layer.path / ".metadata/tree.mtree").exists()
        else stage_layer(base / "staging", *specs[layer.digest])
        for layer in change.layers
    ]
    return replace(change, layers=tuple(layers))


def test_a_crash_while_recovering_is_recovered_from(memory, monkeypatch):
    first, change = two_moves(memory / "template")
    publish(open_repository(memory / "template"), first)
    old_state = states(memory / "template")
    total = next(
        steps
        for steps in count(0, 7)
        if interrupted(memory, monkeypatch, change, steps, None) is None
    )
    for steps in range(20, total, 23):
        for recovery_steps in count():
            after = interrupted(memory, monkeypatch, change, steps, recovery_steps)
            assert after == "recovered at once" or (
                after == old_state or set(after) == set(change_paths(change))
            )
            if after == "recovered at once":
                break


def recover(base):
    with open_repository(base).lock():
        pass


def interrupted(memory, monkeypatch, change, steps, recovery_steps):
    """Publish with a crash, recover with a crash, recover: what readers see then.

    None where publishing was done before its crash.
    """
    case = memory / "case"
    copy_tree(memory / "template", case)
    try:
        _, change = two_moves(case)
        if crash_after(monkeypatch, steps, publish, open_repository(case), change):
            return None
        if recovery_steps is None:
            return states(case)

        done = crash_after(monkeypatch, recovery_steps, recover, case)
        recover(case)
        repository = open_repository(case)
        assert leftovers(repository.path) == []
        assert repository.verify(NAME) == []
        return "recovered at once" if done else states(case)
    finally:
        shutil.rmtree(case)


def moving(base):
    """What moves the tag in a repository that another process has, too."""
    _, change = two_moves(base)
    return partial(publish, open_repository(base, durable=True), change)


def test_a_killed_publisher_leaves_neither_lock_nor_half_an_image(tmp_path):
    template = tmp_path / "template"
    first, _ = two_moves(template)
    publish(open_repository(template), first)
    old_state = states(template)
    outcomes = []
    for child in each_stop(template, moving, before=("link", "rename", "symlink"), every=3):
        with pytest.raises(RepositoryLocked, match=f"process {child.pid} "):
            recover(child.path)
        child.kill()
        repository = open_repository(child.path)
        _, change = two_moves(child.path)
        with repository.lock():
            pass
        assert repository.verify(NAME) == []
        assert leftovers(repository.path) == []
        outcomes.append(states(child.path) == old_state)
        publish(repository, change)
        assert repository.verify(NAME) == []
        assert set(states(child.path)) == set(change_paths(change))
    assert True in outcomes
    assert False in outcomes


def publish_several(base, who, all_ready):
    repository = open_repository(base, lock_seconds=300)
    changes = [stage(base / who, f"host/{who}:{n}", config=f"config {n}") for n in range(5)]
    all_ready.wait(300)
    for change in changes:
        name = change.images[0].name
        publish(repository, stage(base / who, name + "x", config=who))
        publish(repository, stage(base / who, name, config=name))


def test_two_processes_publish_at_the_same_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    all_ready = context.Barrier(2)
    children = [
        context.Process(target=publish_several, args=(tmp_path, who, all_ready))
        for who in ("one", "two")
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    repository = open_repository(tmp_path)
    names = list(repository.names())
    assert len(names) == 20
    assert [line for name in names for line in repository.verify(name)] == []
    configs = {str(repository.record(name).config) for name in names}
    layer = repository.record(names[0]).layers[0]
    origin = json.loads(OnDisk(repository.path).origin(layer).read_bytes())["origin"]
    assert sorted(origin) == sorted(configs)
