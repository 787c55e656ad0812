"""``duccmake status``: how each image of the wish lists stands."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..oci.globs import any_of
from ..planning.plan import Plan
from ..run.status import Status, read_document
from ..run.table import newest_plan, table
from ..words import counted
from .command import Command, add_directory

if TYPE_CHECKING:
    import pandas

DESCRIPTION = """\
Show how each image of the wish lists stands, from the newest plan and the last run: what
failed and why comes first, the newest before others. No registry is asked; `snakemake -n`
brings the plan up to date."""


def show(options: argparse.Namespace) -> int:
    """Write the table to standard output; 1 where there has been no run yet."""
    path = newest_plan(options.directory)
    if path is None:
        where = options.directory.absolute()
        sys.stderr.write(f"{where} has no plan: run snakemake there, or name it with -d\n")
        return 1
    status = Status.load(options.directory)
    if status and status.error:
        sys.stderr.write(f"the last run ended before its images: {status.error}\n")
    found = table(Plan.load(path), path.stem, status, read_document(options.directory))
    if options.globs:
        pattern = any_of(*options.globs)
        found = found.loc[[pattern.fullmatch(name) is not None for name in found["image"]]]
    sys.stdout.write(_text(found, options))
    return 0


def _text(found: pandas.DataFrame, options: argparse.Namespace) -> str:
    if options.json:
        return found.to_json(orient="records", indent=1, force_ascii=False) + "\n"
    if options.tsv:
        return found.to_csv(sep="\t", index=False)
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: pandas.DataFrame) -> Iterator[str]:
    """The table for people: no line is longer than their terminal is wide."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    shown = found[["state", "image", "reason"]]
    padded = shown.apply(lambda column: column.str.ljust(max(column.str.len(), default=0)))
    for cells in padded.itertuples(index=False):
        yield "  ".join(cells).rstrip()[:width]
    counts = found["state"].value_counts(sort=False)
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    yield f"{counted(len(found), 'image')}{': ' if said else ''}{said}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command can be told."""
    parser.add_argument(
        "globs",
        nargs="*",
        metavar="GLOB",
        help="images whose whole names match, such as '*debian*'",
    )
    add_directory(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="an array of objects")
    form.add_argument("--tsv", action="store_true", help="a line an image, with a header")


COMMAND = Command("status", "show how each image stands", DESCRIPTION, add_options, show)
