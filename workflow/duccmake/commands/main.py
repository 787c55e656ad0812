"""The entry point of ``duccmake``: which commands there are."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import DuccmakeError
from . import check, status, wait

COMMANDS = (status.COMMAND, wait.COMMAND, check.COMMAND)

DESCRIPTION = """\
Questions about the images of wish lists. What converts and publishes them is snakemake."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, and 2 where it could not be run at all."""
    options = _parse(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal knows all letters
    try:
        found: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # as `head` leaves it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except DuccmakeError as error:
        sys.stderr.write(f"duccmake: {error}\n")
        return 2
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("duccmake", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"duccmake {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        options = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            allow_abbrev=False,
        )
        command.add_options(options)
        options.set_defaults(run=command.run)
    return parser.parse_args(arguments)
