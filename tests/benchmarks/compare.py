"""Programs against their peers: run in turn, measured from outside, told as ratios.

A machine's speed drifts: what counts is the median of the ratios of neighbouring
runs.  CPU time and memory are what the kernel accounts for a program with all
processes that it started and waited for (wait4).
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rows import Row, leave


@dataclass(frozen=True, slots=True)
class Run:
    """One run: seconds, seconds of CPU, and the largest process in MB."""

    wall: float
    user: float
    system: float
    memory: float


@dataclass(frozen=True, slots=True)
class Program:
    """A command line; ``{out}`` in it is an empty directory, new for each run."""

    name: str
    command: Sequence[str | Path]


def alternate(
    title: str, programs: Sequence[Program], *, rounds: int = 5, warm_up: bool = True
) -> dict[str, list[Run]]:
    """Run each program once to warm up, then all in turn; print and return what they took."""
    runs: dict[str, list[Run]] = {program.name: [] for program in programs}
    if warm_up:
        for program in programs:
            run(program)
    for _ in range(rounds):
        for program in programs:
            runs[program.name].append(run(program))
    told(title, runs)
    return runs


def told(title: str, runs: dict[str, list[Run]]) -> None:
    """Print what programs took that ran in turn, and leave rows of it."""
    print(table(title, runs))
    _leave(title, runs)


def beside(
    what: str, ours: Sequence[float], peer: str, theirs: Sequence[float], unit: str = "s"
) -> None:
    """Leave a row of figures that were taken in turn."""
    ratios = [mine / max(other, 1e-3) for mine, other in zip(ours, theirs, strict=False)]
    medians = statistics.median(ours), statistics.median(theirs)
    leave(Row(what, unit, medians[0], peer, medians[1], statistics.median(ratios)))


def _leave(title: str, runs: dict[str, list[Run]]) -> None:
    first, *others = runs
    for other in others:
        for figure, unit in (("wall", "s"), ("memory", "MB")):
            mine, theirs = (
                [getattr(taken, figure) for taken in runs[name]] for name in (first, other)
            )
            what = title if first == "duccmake" else f"{title}, {first}"
            beside(what if unit == "s" else f"{what}: memory", mine, other, theirs, unit)


def table(title: str, runs: dict[str, list[Run]]) -> str:
    """Medians by program, and the first program's ratios to each other one."""
    first, *others = runs
    lines = [f"\n{title} (medians of {len(runs[first])} runs in turn)"]
    lines.append(f"  {'':28}{'wall s':>10}{'user s':>10}{'system s':>10}{'peak MB':>10}")
    for name, taken in runs.items():
        values = [_median(taken, figure) for figure in Run.__slots__]
        lines.append(f"  {name:28}" + "".join(f"{value:10.2f}" for value in values))
    for other in others:
        ratios = [ratio(runs[first], runs[other], figure) for figure in Run.__slots__]
        lines.append(
            f"  {first + ' / ' + other:28}" + "".join(f"{value:10.2f}" for value in ratios)
        )
    return "\n".join(lines)


def ratio(ours: Sequence[Run], theirs: Sequence[Run], figure: str) -> float:
    """The median of the ratios of one figure, pair by pair."""
    return statistics.median(
        getattr(mine, figure) / max(getattr(other, figure), 1e-3)
        for mine, other in zip(ours, theirs, strict=True)
    )


def _median(runs: Sequence[Run], figure: str) -> float:
    return statistics.median(getattr(taken, figure) for taken in runs)


_MEASURE = """
import os, sys, time
null = os.open(os.devnull, os.O_RDWR)
begin = time.perf_counter()
pid = os.posix_spawnp(
    sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)]
)
_, status, usage = os.wait4(pid, 0)
wall = time.perf_counter() - begin
print(wall, usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status) and 1)
"""
"""Small, because a process inherits the peak of memory of the one that starts it."""


def run(program: Program) -> Run:
    """Run a program once."""
    out = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        command = [str(word).replace("{out}", str(out)) for word in program.command]
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MEASURE, *command],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(out)
    if done.returncode:
        raise RuntimeError(f"{program.name} failed: {done.stderr}")
    return Run(*map(float, done.stdout.split()))
