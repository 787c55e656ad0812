"""A publisher that ends at any point: what readers see, and what the next one makes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import staged_trees as make
from staged_trees import (
    NAME,
    directory,
    file,
    listing,
    open_repository,
    publish,
    stage_image,
    stage_layer,
    symlink,
    whiteout,
)

from duccmake import mtree
from duccmake.errors import RepositoryLocked
from duccmake.repository import ChangeSet, kernel
from duccmake.repository.layout import Layout


class Crash(BaseException):
    """The process is gone: nothing that it would do after this happens."""


_CALLS = [
    *("open", "mkdir", "link", "symlink", "mknod", "rename", "unlink", "rmdir", "utime"),
    *("chmod", "chown", "ftruncate", "fsync", "fchmod"),
]


class CrashAt:
    """Lets ``steps`` system calls pass; that one and all after it do not happen."""

    def __init__(self, patch, steps):
        self.calls = 0
        self._steps = steps
        for name in _CALLS:
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(kernel, "exchange", self._counted(kernel.exchange))

    def _counted(self, real):
        def call(*arguments, **more):
            self.calls += 1
            if self.calls > self._steps:
                raise Crash
            return real(*arguments, **more)

        return call


def crash_after(monkeypatch, steps, work, *arguments):
    """Whether ``work`` was done before the crash."""
    with monkeypatch.context() as patch:
        CrashAt(patch, steps)
        try:
            work(*arguments)
        except Crash:
            return False
        return True


@pytest.fixture
def memory(tmp_path):
    """A fast place for many short repositories."""
    base = Path("/dev/shm")
    path = base / f"duccmake-crash-{os.getpid()}" if os.access(base, os.W_OK) else tmp_path / "m"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def states(path):
    """What readers see of an image."""
    link = path / "root/unpacked.example.org" / NAME
    return listing(link.resolve()) if link.is_symlink() else None


def test_a_crash_at_any_step_leaves_the_old_or_the_new_image_whole(memory, monkeypatch):
    """The first publication, then a moved tag, each interrupted after every system call."""
    template, new_state = memory / "template", None
    first_layers, _ = amended_moves(template)
    old_repository = open_repository(template)
    publish(old_repository, first_layers)
    old_state = states(template)
    outcomes = set()
    for steps in count():
        case = memory / "case"
        copy_tree(template, case)
        _, change = amended_moves(case)
        repository = open_repository(case)
        done = crash_after(monkeypatch, steps, publish, repository, change)

        seen = states(case)
        if seen != old_state:
            assert set(seen) == set(change_paths(change))
        fresh = open_repository(case)
        with fresh.lock():
            pass
        after = states(case)
        assert after == old_state or set(after) == set(change_paths(change))
        assert seen == old_state or after == seen, "what readers saw was taken back"
        outcomes.add(after == old_state)
        assert leftovers(fresh.path) == []
        assert fresh.verify(NAME) == []

        again = stage_missing(case, change)
        publish(fresh, again)
        assert set(states(case)) == set(change_paths(change))
        assert fresh.verify(NAME) == []
        assert leftovers(fresh.path) == []
        new_state = new_state or set(states(case))
        shutil.rmtree(case)
        if done:
            break
    assert outcomes == {True, False}
    assert steps > 100


def copy_tree(source, target):
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


OLD = [directory("."), directory("d", 0o750), file("d/f", b"old", 0o600), file("d/gone", b"g")]
NEW = [
    directory(".", flags=frozenset({b"implied"})),
    directory("d", flags=frozenset({b"implied"})),
    file("d/f", b"new"),
    whiteout("d/gone"),
    directory("e"),
    symlink("e/link", "../d/f"),
]


def amended_moves(base):
    """Two change sets for one name; the second has a layer more, which wants amending."""
    staging = base / "staging"
    old = stage_layer(staging, "old", OLD)
    first_image = stage_image(base / "images1", NAME, [(old, OLD)], config="one")
    new = stage_layer(staging, "new", NEW)
    amendments = {new.digest: [directory("d", 0o750, flags=frozenset({b"implied"}))]}
    second_image = stage_image(
        base / "images2", NAME, [(old, OLD), (new, NEW)], config="two", amendments=amendments
    )
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


def leftovers(path):
    return [str(entry) for entry in path.rglob("*") if entry.name.endswith((".new", ".old"))] + [
        str(entry) for entry in path.glob(".duccmake/*") if entry.name != "lock"
    ]


def test_a_crash_while_recovering_is_recovered_from(memory, monkeypatch):
    first, change = amended_moves(memory / "template")
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
        _, change = amended_moves(case)
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


CHILD = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_directory_crashes import *

base, stop_at = Path(sys.argv[1]), int(sys.argv[2])
_, change = amended_moves(base)
real = {name: getattr(os, name) for name in ("link", "rename", "symlink")}
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
for name in real:
    setattr(os, name, stopping(name))
publish(repository, change)
print("done", flush=True)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments), *import_path()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_publisher_leaves_neither_lock_nor_half_an_image(tmp_path):
    template = tmp_path / "template"
    first, _ = amended_moves(template)
    publish(open_repository(template), first)
    old_state = states(template)
    outcomes = []
    for stop_at in count(1, 3):
        case = tmp_path / f"case{stop_at}"
        copy_tree(template, case)
        with start(CHILD, case, stop_at) as child:
            said = child.stdout.readline().strip()
            if said == "here":
                with pytest.raises(RepositoryLocked, match=f"process {child.pid} "):
                    recover(case)
            child.send_signal(signal.SIGKILL)
        if said == "done":
            break
        assert said == "here"
        repository = open_repository(case)
        _, change = amended_moves(case)
        with repository.lock():
            pass
        assert repository.verify(NAME) == []
        assert leftovers(repository.path) == []
        outcomes.append(states(case) == old_state)
        publish(repository, change)
        assert repository.verify(NAME) == []
        assert set(states(case)) == set(change_paths(change))
    assert True in outcomes
    assert False in outcomes


PUBLISHER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from dataclasses import replace
from staged_trees import *

base, who = Path(sys.argv[1]), sys.argv[2]
repository = open_repository(base, lock_seconds=300)
changes = [stage(base / who, f"host/{who}:{n}", config=f"config {n}") for n in range(5)]
print("ready", flush=True)
sys.stdin.readline()
for change in changes:
    publish(repository, stage(base / who, change.images[0].name + "x", config=who))
    publish(repository, stage(base / who, change.images[0].name, config=change.images[0].name))
"""


def test_two_processes_publish_at_the_same_time(tmp_path):
    children = [start(PUBLISHER, tmp_path, who) for who in ("one", "two")]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    repository = open_repository(tmp_path)
    names = list(repository.names())
    assert len(names) == 20
    assert [line for name in names for line in repository.verify(name)] == []
    configs = {str(repository.record(name).config) for name in names}
    layer = repository.record(names[0]).layers[0]
    origin = json.loads(Layout(repository.path).origin(layer).read_bytes())["origin"]
    assert sorted(origin) == sorted(configs)


def import_path():
    here = Path(__file__).parent
    return [str(here), str(here.parents[1] / "workflow")]
