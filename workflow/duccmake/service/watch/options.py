"""Whether Snakemake takes the options that the watcher hands on: asked before the first run."""

from __future__ import annotations

import asyncio
import sys

from ...errors import DuccmakeError
from ...run.maintenance import TARGETS
from ...run.session import is_preview
from ...workspace.reports import Rule
from ..invocation import Invocation
from .child import command

_PROGRAM = """
import sys
from pathlib import Path
from snakemake.cli import parse_args, parse_config

try:
    _, options = parse_args(sys.argv[1:])
    parse_config(options.config)
except Exception as error:
    sys.exit(f"{error}\\n")
if options.cores is None and options.jobs is None and options.executor in (None, "local"):
    sys.exit("--cores N is missing")
if "://" not in str(options.snakefile) and not Path(options.snakefile).exists():
    sys.exit(f"there is no Snakefile {options.snakefile}")
print("understood", *options.targets, sep="\\n")
"""
"""Ends with what is wrong, as the last line of standard error."""


class CommandLineError(DuccmakeError):
    """The watcher's command line is wrong, so that no run can come to anything."""


async def check(invocation: Invocation) -> None:
    """Raise `CommandLineError` where Snakemake would refuse the command line, or do nothing.

    Can be cancelled.
    """
    if is_preview(invocation.rest):
        raise _wrong("with an option that only shows something nothing is ever published")
    asked = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", _PROGRAM, *command(invocation)[3:]],
        cwd=invocation.directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        answer, complaint = await asked.communicate()
    except asyncio.CancelledError:
        asked.kill()
        raise
    first, *targets = answer.decode().splitlines() or [""]
    said = [line for line in complaint.decode().splitlines() if line.strip()]
    if first != "understood":
        # What cannot even be imported is no matter of options: the run will tell.
        if said and not said[-1].startswith(("ImportError", "ModuleNotFoundError")):
            raise _wrong(said[-1].rpartition(" error: ")[2].removeprefix("Error: "))
        return
    for target in targets:
        if "/" not in target and target not in {"all", *Rule, *TARGETS}:
            raise _wrong(f"there is no target {target}")


def _wrong(found: str) -> CommandLineError:
    return CommandLineError(
        found, step="command line", hint="see 'watch.py --help' and 'snakemake --help'"
    )
