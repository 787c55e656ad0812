"""Jobs that are forked from a process that has imported all they need, seen from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duccmake.jobs.job import PLAN_VARIABLE
from duccmake.jobs.server import SOCKET_VARIABLE
from duccmake.workspace.reports import Rule
from support.planned import image, plan
from support.runs import CHECKOUT

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": str(CHECKOUT / "workflow"),
}

JOB = """
import json, os, signal, sys
import duccmake.jobs.start
os.write(1, b'o')
sys.stderr.write('what is said\\n')
os.environ.pop('DUCCMAKE_JOBS', None)
print(json.dumps([sys.argv[1:], os.getcwd(), sorted(os.environ.items()), __name__,
                  signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGPIPE),
                  os.readlink('/proc/self/fd/0')]), flush=True)
exec(sys.argv[1])
"""

STARTING = """
import sys
from pathlib import Path
from duccmake.jobs.server import start_server
start_server(Path("run"), Path("scripts"))
print("started", flush=True)
sys.stdin.read()
"""
"""What the run's main process does."""


@dataclass
class Server:
    """A server for jobs that do what their first argument says, and who started it."""

    path: Path
    main: subprocess.Popen[str]

    def job(self, code: str, *arguments: str, server: bool = True, **environment: str):
        """A process that stands for such a job, or is it."""
        found = {**ENVIRONMENT, **environment}
        command = [sys.executable, self.path / "scripts/fetch_blob.py"]
        if server:
            found[SOCKET_VARIABLE] = "run/jobs.sock"
            command = [sys.executable, "-IS", self.path / "scripts/job.py", "fetch_blob"]
        return subprocess.Popen(
            [*command, code, *arguments],
            cwd=self.path, env=found, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    @property
    def process(self) -> psutil.Process:
        [server] = psutil.Process(self.main.pid).children()
        return server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server that comes to harm."""
    with start(tmp_path) as server:
        yield server


class start:
    """A server of its own, for a block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Server:
        scripts = self._path / "scripts"
        scripts.mkdir()
        (scripts / "job.py").write_bytes((CHECKOUT / "scripts/job.py").read_bytes())
        for rule in Rule:
            (scripts / f"{rule}.py").write_text(JOB)
        found = plan([image()]).save(self._path)
        self._main = subprocess.Popen(
            [sys.executable, "-c", STARTING], cwd=self._path, text=True,
            env={**ENVIRONMENT, PLAN_VARIABLE: str(found)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._main.stdout and self._main.stdout.readline() == "started\n"
        return Server(self._path, self._main)

    def __exit__(self, *_: object) -> None:
        self._main.communicate()


ENDS = st.one_of(
    st.integers(-300, 300).map(lambda status: f"sys.exit({status})"),
    st.integers(0, 255).map(lambda status: f"os._exit({status})"),
    st.sampled_from(
        ["TERM", "KILL", "SEGV", "INT", "HUP", "PIPE", "ABRT", "USR1", "CHLD", "CONT", "WINCH"]
    ).map(lambda name: f"os.kill(os.getpid(), signal.SIG{name})"),
    st.sampled_from(
        [
            "sys.exit()", "sys.exit(None)", "sys.exit('in words')", "sys.exit(True)", "",
            "raise ValueError('x')", "raise SystemExit", "raise SystemExit((1, 2))", "import none",
            "import atexit; atexit.register(print, 'at the end')",
            "import threading; threading.Thread(target=lambda: print('thread')).start()",
            "print('not flushed', end='')", "os.close(1)",
        ]
    ),
)  # fmt: skip
WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)
NAMES = st.from_regex(r"[A-Z_]{1,8}", fullmatch=True).filter(
    lambda name: name not in ("PATH", "PYTHONPATH")
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ENDS, st.lists(WORDS, max_size=3), st.dictionaries(NAMES, WORDS, max_size=3))
def test_a_forked_job_is_as_one_that_is_a_process_of_its_own(server, code, words, variables):
    forked = server.job(code, *words, **variables)
    plain = server.job(code, *words, server=False, **variables)
    said, wanted = forked.communicate(), plain.communicate()
    assert forked.returncode == plain.returncode
    assert said[0] == wanted[0]
    last = [lines.strip().splitlines()[-1] for lines in (said[1], wanted[1])]
    assert last[0] == last[1]


WAITING = "print(os.getpid(), flush=True); signal.pause()"
HEEDING = "signal.signal({}, lambda *_: sys.exit(7)); " + WAITING


def begun(job: subprocess.Popen[bytes]) -> psutil.Process:
    """The process of a job that says who it is."""
    assert job.stdout
    job.stdout.readline()
    return psutil.Process(int(job.stdout.readline()))


def test_sigterm_to_who_stands_for_a_job_reaches_the_job(server):
    job = server.job(HEEDING.format(15))
    begun(job)
    job.terminate()
    assert job.wait() == 7


def test_of_control_c_which_all_hear_of_a_job_hears_once(server):
    job = server.job(HEEDING.format(2))
    forked = begun(job)
    job.send_signal(signal.SIGINT)
    forked.send_signal(signal.SIGINT)
    assert job.wait() == 7


def test_a_job_ends_with_who_stands_for_it(server):
    job = server.job(WAITING)
    forked = begun(job)
    job.kill()
    forked.wait(60)


def test_a_job_that_is_killed_fails_alone(server):
    jobs = [server.job(WAITING) for _ in range(2)]
    forked = [begun(job) for job in jobs]
    forked[0].kill()
    assert jobs[0].wait() == -signal.SIGKILL
    forked[1].send_signal(signal.SIGUSR1)
    assert jobs[1].wait() == -signal.SIGUSR1


def test_when_the_server_is_killed_its_jobs_fail_and_later_ones_do_without(own):
    job = own.job(WAITING)
    forked = begun(job)
    own.process.kill()
    assert job.wait() == -signal.SIGKILL
    forked.wait(60)
    later = own.job("print(os.getppid()); sys.exit(3)")
    said, _ = later.communicate()
    assert (later.returncode, int(said.splitlines()[-1])) == (3, os.getpid())


def test_a_job_that_waits_for_a_server_that_cannot_begin_does_without(tmp_path):
    with start(tmp_path) as server:
        server.process.suspend()
        job = server.job("print(os.getppid()); sys.exit(3)")
        # It has connected, or will and be refused: either way nobody takes it.
        server.process.kill()
        said, _ = job.communicate()
        assert (job.returncode, int(said.splitlines()[-1])) == (3, os.getpid())


def test_the_server_outlives_the_run_as_long_as_a_job_does(own):
    job = own.job(HEEDING.format(15))
    begun(job)
    server = own.process
    own.main.kill()
    own.main.wait()
    # Nobody forks any more, and what runs goes on.
    later = own.job("print(os.getppid()); sys.exit(3)")
    assert (later.communicate()[0].splitlines()[-1], later.returncode) == (b"%d" % os.getpid(), 3)
    assert job.poll() is None and server.is_running()
    job.terminate()
    assert job.wait() == 7
    server.wait(60)


LINKS = "print([os.readlink(f) for f in Path('/proc/self/fd').iterdir() if f.is_symlink()])"


def test_a_job_has_no_files_of_other_jobs_open(server):
    others = [server.job(WAITING) for _ in range(3)]
    theirs = {str(Path(f"/proc/{begun(other).pid}/fd/1").readlink()) for other in others}
    job = server.job("from pathlib import Path; " + LINKS)
    said, _ = job.communicate()
    for other in others:
        other.kill()
    links = eval(said.splitlines()[-1])
    assert not theirs.intersection(links) and not [link for link in links if "socket" in link]


@pytest.mark.parametrize("request_", [b"x", b"/\0two\0a", b"\0\xff"])
def test_what_is_no_request_leaves_other_jobs_alone(server, request_):
    job = server.job(HEEDING.format(15))
    begun(job)
    with contextlib.chdir(server.path), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect("run/jobs.sock")
        s.send(request_)
        assert s.recv(16) == b""
    job.terminate()
    assert job.wait() == 7


def test_nobody_else_can_ask_for_jobs(server):
    assert stat.S_IMODE((server.path / "run/jobs.sock").stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((server.path / "run").stat().st_mode) & 0o700 == 0o700


def test_control_c_does_not_end_the_server_and_is_a_jobs_as_it_was_the_runs(own):
    asking = "print(signal.getsignal(2) is signal.SIG_IGN)"
    for _ in range(2):
        own.process.send_signal(signal.SIGINT)
        own.process.send_signal(signal.SIGTERM)
        # It is ignored where the tests run in the background.
        said, wanted = (own.job(asking, server=one).communicate()[0] for one in (True, False))
        assert said.splitlines()[-1] == wanted.splitlines()[-1]
