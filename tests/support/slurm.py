"""A Slurm cluster of this machine's own: a few nodes, all of them here, below one directory.

Its daemons have ports, sockets and a key of their own, run as who runs the tests, and end with
the block.  All sees the same files, as on a shared file system.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import psutil
import pytest

from support.servers import free_port

PROGRAMS = (
    "setpriv",
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "squeue",
    "scancel",
    "scontrol",
    "sinfo",
)

_SECONDS = 60
"""Nothing here takes nearly so long."""

_CONFIGURATION = """\
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
CredType=cred/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/%n
SlurmdPidFile={base}/%n.pid
SlurmctldPidFile={base}/slurmctld.pid
SlurmdLogFile={base}/%n.log
SlurmctldLogFile={base}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=2
MinJobAge=300
{nodes}
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_NODE = (
    "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} "
    "CPUs={cpus} RealMemory=4000 State=UNKNOWN\n"
)


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs; ``environment`` is what its programs, and who calls them, need."""

    base: Path
    environment: Mapping[str, str]
    daemons: Mapping[str, subprocess.Popen[bytes]]

    def ask(self, *command: str) -> str:
        """What one of Slurm's programs says."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}\n{self.logs()}"
        return done.stdout

    def jobs(self, *options: str) -> list[list[str]]:
        """Of each job that is known still: its number, state, node and time limit."""
        form = "--format=%i %T %N %l"
        lines = self.ask("squeue", "--noheader", "--states=all", form, *options).splitlines()
        return [line.split(" ") for line in lines]

    def active(self) -> list[list[str]]:
        """The jobs that wait or run."""
        return self.jobs("--states=PENDING,RUNNING,COMPLETING")

    def told(self, number: str) -> str:
        """All that is known of a job."""
        return self.ask("scontrol", "show", "job", number)

    def lose(self, node: str) -> None:
        """The node is gone, with all that ran on it, and the cluster has noticed."""
        daemon = psutil.Process(self.daemons[node].pid)
        # Nobody is left to tell that another has gone before.
        jobs = _jobs(node)
        lost = [daemon, *dict.fromkeys(chain.from_iterable(map(_watchers, jobs))), *jobs]
        for process in lost:
            _signal(process, signal.SIGSTOP)
        for process in lost:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(lost, timeout=_SECONDS)
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def stored(self) -> bytes:
        """All that its daemons have written."""
        files = (path for path in self.base.rglob("*") if path.is_file())
        return b"".join(path.read_bytes() for path in files)

    def logs(self) -> str:
        """What its daemons say."""
        return "\n".join(path.read_text() for path in sorted(self.base.glob("*.log")))


@contextmanager
def cluster(base: Path, nodes: int = 2, cpus: int = 2) -> Iterator[Cluster]:
    """A cluster whose files are below ``base``; skips the test where its programs are missing."""
    if missing := [name for name in PROGRAMS if _program(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge, util-linux)")
    base.mkdir(parents=True, mode=0o755)
    (base / "state").mkdir()
    key = base / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    # Names that are no other cluster's on this machine: what runs on a node is found by its name.
    ports = {f"node{port}": port for port in (free_port() for _ in range(nodes))}
    lines = (_NODE.format(name=name, port=port, cpus=cpus) for name, port in ports.items())
    configuration = base / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            base=base, user=getpass.getuser(), port=free_port(), nodes="".join(lines)
        )
    )
    environment = {"SLURM_CONF": str(configuration)}
    with ExitStack() as stack:
        daemons = {}

        def start(name: str, program: str, *options: str) -> None:
            # Who kills the tests ends it as well.
            command = ["setpriv", "--pdeathsig", "TERM", _program(program) or program, *options]
            daemons[name] = stack.enter_context(_daemon(command, environment, base / f"{name}.out"))

        start("munge", "munged", "--foreground", *_munge_options(base))
        _wait(lambda: (base / "munge.socket").exists())
        start("controller", "slurmctld", "-D")
        for name in ports:
            (base / name).mkdir()
            start(name, "slurmd", "-D", "-N", name)
        running = Cluster(base, environment, daemons)
        stack.callback(_end_jobs, list(ports))
        _wait(lambda: _idle(running) == nodes)
        yield running


def _munge_options(base: Path) -> list[str]:
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
    files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    # Temporary directories belong to all, which it takes for a danger.
    return ["--force", *(f"--{option}={base / file}" for option, file in files.items())]


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


@contextmanager
def _daemon(
    command: list[str], environment: Mapping[str, str], output: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS / 6)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _idle(running: Cluster) -> int:
    command = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
    environment = {**os.environ, **running.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return len(done.stdout.split())


def _jobs(node: str) -> list[psutil.Process]:
    """What jobs run on a node."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("SLURMD_NODENAME") == node:
                found.append(process)
    return found


def _watchers(job: psutil.Process) -> list[psutil.Process]:
    """Who sees to a job for its node's daemon."""
    with suppress(psutil.NoSuchProcess):
        return [process for process in job.parents() if process.name() == "slurmstepd"]
    return []


def _end_jobs(names: list[str]) -> None:
    for name in names:
        for process in _jobs(name):
            _signal(process, signal.SIGKILL)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _wait(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not found():
        assert time.monotonic() < deadline, "the cluster does not start"
        time.sleep(0.02)
