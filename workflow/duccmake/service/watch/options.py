"""Whether Snakemake takes the options that the watcher hands on: asked before the first run."""

from __future__ import annotations

import subprocess
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


def check(invocation: Invocation) -> None:
    """Raise `CommandLineError` where Snakemake would refuse the command line, or do nothing."""
    if is_preview(invocation.rest):
        raise _wrong("with an option that only shows something nothing is ever published")
    asked = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *command(invocation)[3:]],
        cwd=invocation.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    first, *targets = asked.stdout.splitlines() or [""]
    said = [line for line in asked.stderr.splitlines() if line.strip()]
    if first != "understood":
        if said and "ImportError" not in said[-1] and "ModuleNotFoundError" not in said[-1]:
            raise _wrong(said[-1].rpartition(" error: ")[2].removeprefix("Error: "))
        return
    for target in targets:
        if "/" not in target and target not in {"all", *Rule, *TARGETS}:
            raise _wrong(f"there is no target {target}")


def _wrong(found: str) -> CommandLineError:
    return CommandLineError(
        found, step="command line", hint="see 'watch.py --help' and 'snakemake --help'"
    )
