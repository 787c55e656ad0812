"""A process that has imported what jobs need, and forks one for each: ``python -m`` this.

A Python process that begins by itself takes longer to import what it needs than most jobs take
to do their work.  The run's main process starts this one where it has jobs for it; it ends with
the run, and once no job is left.  ``scripts/job.py`` asks it for a job and stands for the job
towards Snakemake: the job ends as soon as that does, its signals are handed on, and its status is
that of the job.  Where there is no such process, as on a cluster's nodes, jobs are processes
like any other.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import multiprocessing
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import CodeType

from ..fs.syscalls import die_with_parent
from ..workspace.reports import Rule
from .job import PLAN_VARIABLE, load_config, load_plan

SOCKET_VARIABLE = "DUCCMAKE_JOBS"
"""The environment variable that names the socket to ``scripts/job.py``."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What whoever wants jobs to end tells them, and the run: the server has to see how they end."""

_REQUEST_BYTES = 1 << 20
_STARTED = b"+"

_PACKAGES = ("fs", "oci", "tree", "cvmfs", "layer", "registry", "repository", "workspace", "jobs")
_OTHERS = ("deflate", "encodings.idna", "multiprocessing.connection", "requests.utils")
"""What jobs need, some only once they are at work."""

_fork = multiprocessing.get_context("fork")


def start_server(run: Path, scripts: Path) -> None:
    """Start the server for this run's jobs, which are below ``scripts``.

    It listens at once, so that who asks before it has imported all waits for it.  Where no
    socket can be made, as on some file systems, jobs go without.
    """
    # Relative, since a socket's name has room for 107 bytes; jobs begin in this directory.
    path = run / "jobs.sock"
    try:
        run.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an earlier part of the run
        listener = _listening(path)
    except OSError:
        return
    alive, ours = os.pipe()  # that it is closed tells that this process is gone
    inherited = [listener.fileno(), alive]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until it can ignore them
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, *map(str, inherited), str(scripts)],
        stdin=subprocess.DEVNULL,
        pass_fds=inherited,
    )
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    listener.close()
    os.close(alive)
    os.environ[SOCKET_VARIABLE] = str(path)
    place = path.absolute()  # Snakemake leaves its directory before it exits

    @atexit.register
    def end() -> None:
        place.unlink(missing_ok=True)
        os.close(ours)
        process.wait()


def _listening(path: Path) -> socket.socket:
    """A socket to which nobody else may connect."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    listener.listen(1024)
    return listener


@dataclass(frozen=True, slots=True)
class _Request:
    """A job as `scripts/job.py` asks for it, with the standard output and error it is to have."""

    workdir: str
    arguments: Sequence[str]
    environment: Sequence[bytes]
    streams: Sequence[int]

    @classmethod
    def receive(cls, connection: socket.socket) -> _Request:
        """Read one; `ValueError` where it is none, as of who is gone."""
        content, streams, *_ = socket.recv_fds(connection, _REQUEST_BYTES, 2)
        workdir, count, *words = content.split(b"\0")
        arguments, environment = words[: int(count)], words[int(count) :]
        return cls(os.fsdecode(workdir), list(map(os.fsdecode, arguments)), environment, streams)

    def settle(self) -> None:
        """Have this process be as one that was started for the job alone."""
        for ours, theirs in zip((1, 2), self.streams, strict=True):
            os.dup2(theirs, ours)
            os.close(theirs)
        os.chdir(self.workdir)
        os.environ.clear()
        for variable in self.environment:
            name, _, value = variable.partition(b"=")
            os.environb[name] = value
        sys.argv = list(self.arguments)


@dataclass
class _Server:
    listener: socket.socket
    alive: int
    found: Mapping[signal.Signals, signal.Handlers]
    codes: dict[str, CodeType]
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    jobs: dict[socket.socket, ForkProcess] = field(default_factory=dict)

    def serve(self) -> None:
        """Fork jobs as long as the run's main process lives, and until the last has ended."""
        self._watch(self.listener, self._accept)
        self._watch(self.alive, self._forsaken)
        while self.selector.get_map():
            for key, _ in self.selector.select():
                key.data()

    def _watch(self, file: socket.socket | int, act: Callable[[], None]) -> None:
        self.selector.register(file, selectors.EVENT_READ, act)

    def _forsaken(self) -> None:
        self.selector.unregister(self.alive)
        self.selector.unregister(self.listener)
        self.listener.close()

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        self._watch(connection, lambda: self._begin(connection))

    def _begin(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        job = self._forked(connection)
        if job is None:
            connection.close()
            return
        self.jobs[connection] = job
        with suppress(OSError):
            connection.send(_STARTED)
        self._watch(connection, lambda: self._heed(connection, job))
        self._watch(job.sentinel, lambda: self._end(connection, job))

    def _forked(self, connection: socket.socket) -> ForkProcess | None:
        """The process of what was asked for; None where that is no job, or cannot be forked."""
        try:
            request = _Request.receive(connection)
        except (OSError, ValueError):
            return None
        job = _fork.Process(target=self._work, args=(request, connection, os.getpid()))
        try:
            job.start()
        except OSError:
            return None
        finally:
            for stream in request.streams:
                os.close(stream)
        return job

    def _heed(self, connection: socket.socket, job: ForkProcess) -> None:
        """Hand a signal on to the job; end it if who asked for it is gone."""
        try:
            told = connection.recv(16)
        except OSError:
            told = b""
        if not told:
            self.selector.unregister(connection)
        if job.pid is not None:  # not yet waited for, so that the number is still its own
            os.kill(job.pid, int(told or signal.SIGKILL))

    def _end(self, connection: socket.socket, job: ForkProcess) -> None:
        self.selector.unregister(job.sentinel)
        if connection in self.selector.get_map():
            self.selector.unregister(connection)
        del self.jobs[connection]
        job.join()
        with suppress(OSError):
            connection.send(str(job.exitcode).encode())
        connection.close()
        job.close()

    def _work(self, request: _Request, connection: socket.socket, parent: int) -> None:
        """The job's process: what its script does."""
        die_with_parent(parent)
        self.selector.close()
        self.listener.close()
        os.close(self.alive)
        for other in (connection, *self.jobs):
            other.close()
        for number, handler in self.found.items():
            signal.signal(number, handler)
        request.settle()
        try:
            exec(self.codes[Path(sys.argv[0]).name], {"__name__": "__main__"})
        finally:
            atexit._run_exitfuncs()


def _import_all() -> None:
    """Import what jobs import, also what they import late."""
    for name in (f"duccmake.{package}" for package in _PACKAGES):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if module.name != __spec__.name:
                importlib.import_module(module.name)
    for name in _OTHERS:
        importlib.import_module(name)


def _compiled(scripts: Path) -> dict[str, CodeType]:
    """The scripts of rules, by their names."""
    paths = [scripts / f"{rule}.py" for rule in Rule]
    return {path.name: compile(path.read_bytes(), str(path), "exec") for path in paths}


def _heeded(number: signal.Signals) -> signal.Handlers:
    """Ignore a signal from now on; what a process that is started gets to do with it."""
    is_ignored = signal.signal(number, signal.SIG_IGN) == signal.SIG_IGN
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    return signal.SIG_IGN if is_ignored else signal.SIG_DFL


def main() -> None:
    """Import, then fork: the listening socket's and the pipe's descriptor, where scripts are."""
    listener, alive, scripts = sys.argv[1:]
    found = {number: _heeded(number) for number in _SIGNALS}
    _import_all()
    plan = Path(os.environ[PLAN_VARIABLE])
    load_plan(plan).index()
    load_config(plan, Path.cwd())
    gc.freeze()  # what a job's collector does not touch stays shared
    _Server(
        socket.socket(fileno=int(listener)), int(alive), found, _compiled(Path(scripts))
    ).serve()


if __name__ == "__main__":
    main()
