"""Work that ends at a system call: given up in this process, or in another that is killed there."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from duccmake.fs import syscalls

_CALLS = (
    *("open", "mkdir", "link", "symlink", "mknod", "rename", "unlink", "rmdir", "utime"),
    *("chmod", "chown", "ftruncate", "fsync", "fchmod"),
)
_SPAWN = multiprocessing.get_context("spawn")


class Crash(BaseException):
    """The process is gone: nothing that it would do after this happens."""


@contextmanager
def in_memory() -> Iterator[Path]:
    """A fast place for many short repositories."""
    shared = Path("/dev/shm")
    base = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="duccmake-test-", dir=base) as path:
        yield Path(path)


class CrashCase:
    """A copy of a repository, in ``path``, in which a piece of work is tried once."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch, steps: int) -> None:
        self.path = path
        self.done = False
        self._patch = patch
        self._steps = steps

    def attempt(self, work: Callable[..., object], *arguments: Any) -> None:
        """Do the work up to the crash; ``done`` says that it was over before."""
        self.done = crash_after(self._patch, self._steps, work, *arguments)


def each_crash(template: Path, patch: pytest.MonkeyPatch) -> Iterator[CrashCase]:
    """A copy of ``template`` for each system call of a piece of work; the last one sees no crash.

    The work is whatever is given to the copy's `CrashCase.attempt`.
    """
    for steps in count():
        case = CrashCase(template.with_name("case"), patch, steps)
        copy_tree(template, case.path)
        yield case
        shutil.rmtree(case.path)
        if case.done:
            return


def crash_after(
    monkeypatch: pytest.MonkeyPatch, steps: int, work: Callable[..., object], *arguments: Any
) -> bool:
    """Let ``steps`` system calls of some work happen, and nothing more; whether it was done."""
    calls = count()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if next(calls) >= steps:
                raise Crash
            return real(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(syscalls, "exchange", counted(syscalls.exchange))
        try:
            work(*arguments)
        except Crash:
            return False
        return True


class Stopped:
    """A process that stands before a system call, in a copy of a repository in ``path``."""

    def __init__(self, path: Path, process: multiprocessing.process.BaseProcess) -> None:
        self.path = path
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    def kill(self) -> None:
        """Kill it and wait until it is gone."""
        self._process.kill()
        self._process.join()


def each_stop(
    template: Path,
    prepare: Callable[[Path], Callable[[], object]],
    *,
    before: Sequence[str],
    every: int,
) -> Iterator[Stopped]:
    """Another process for one in so many system calls of a piece of work, which stops before it.

    Each gets a copy of ``template``, and does what ``prepare``, a function of a module,
    returns for it.  ``before`` names the functions of `os` that count.
    """
    for stop_at in count(0, every):
        path = template.with_name("case")
        copy_tree(template, path)
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_stop, args=(theirs, before, stop_at, prepare, path))
        process.start()
        theirs.close()
        stopped = Stopped(path, process)
        try:
            done = ours.recv() == "done"
            if not done:
                yield stopped
        finally:
            stopped.kill()
            ours.close()
        shutil.rmtree(path)
        if done:
            return


def _stop(
    told: Connection,
    before: Sequence[str],
    stop_at: int,
    prepare: Callable[[Path], Callable[[], object]],
    path: Path,
) -> None:
    work = prepare(path)
    calls = count()

    def stopping(real: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        if next(calls) == stop_at:
            told.send("stopped")
            told.recv()  # never comes
        return real(*arguments, **more)

    for name in before:
        setattr(os, name, partial(stopping, getattr(os, name)))
    work()
    told.send("done")


def copy_tree(source: Path, target: Path) -> None:
    """A copy with all attributes and hard links."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def leftovers(repository: Path) -> list[str]:
    """What only a transaction that is under way has in a repository."""
    return [str(path) for path in repository.rglob("*") if path.name.endswith((".new", ".old"))] + [
        str(path)
        for path in repository.glob(".duccmake/*")
        if path.name not in ("lock", "images.sqlite")
    ]
