"""What a command of ``duccmake`` is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name, a line and a paragraph of help, its options, and what it does.

    ``run`` returns the exit status; a `DuccmakeError` that it raises is said in one line.
    """

    name: str
    summary: str
    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Have a command be told where Snakemake runs: ``directory``."""
    parser.add_argument(
        "-d",
        "--directory",
        type=Path,
        default=Path(),
        help="the working directory of snakemake (default: this one)",
    )
