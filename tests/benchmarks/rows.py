"""The table of ``make bench``: each benchmark leaves rows, and ``python rows.py FILE`` shows them.

A row is a figure of ours beside that of a peer in the same run, or one that has no peer.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

FILE_VARIABLE = "DUCCMAKE_BENCHMARK_ROWS"
"""The environment variable that names the file of rows, in JSON, one a line."""


@dataclass(frozen=True, slots=True)
class Row:
    """``what`` took ``ours``, and with ``peer`` it took ``theirs``; ``ratio`` is ours to theirs.

    The ratio is the median of those of neighbouring runs, and so not the medians' own.
    """

    what: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None


def leave(row: Row) -> None:
    """Have a row in the table, where there is to be one."""
    if name := os.environ.get(FILE_VARIABLE):
        with Path(name).open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def read(file: Path) -> list[Row]:
    """The rows of a file."""
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()]


def table(rows: list[Row], machine: str) -> str:
    """All of them in Markdown, which reads well on a terminal, too."""
    cells = [("", "duccmake", "its peer", "", "ratio")]
    cells += [
        (
            row.what,
            _figure(row.ours, row.unit),
            row.peer,
            "" if row.theirs is None else _figure(row.theirs, row.unit),
            "" if row.ratio is None else f"{row.ratio:.3g}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([machine, "", *lines])


def _figure(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def this_machine() -> str:
    """When and where it was measured."""
    model = "an unknown processor"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    cores = len(os.sched_getaffinity(0))
    return (
        f"{date.today()}: {cores} cores of {model}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}; load {os.getloadavg()[2]:.1f} in the last 15 minutes"
    )


if __name__ == "__main__":
    print(table(read(Path(sys.argv[1])), this_machine()))
