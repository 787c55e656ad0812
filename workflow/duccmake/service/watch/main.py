"""The watcher as a program."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

from ...errors import ConfigError, DuccmakeError
from ...run.events import note_failure
from ...run.status import of_failure
from ...workspace.event_log import EventSettings
from ..invocation import Invocation, log_to_stderr
from ..systemd import Service
from .loop import Watcher, only_watcher
from .options import CommandLineError

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Run `snakemake` at an interval, when a wish list changes, and when a registry tells of a
pushed image. All further options are Snakemake's: `--cores N` is one that it needs."""


def main(arguments: Sequence[str]) -> int:
    """Watch until SIGTERM; returns the exit status, which is 2 where ``arguments`` are wrong."""
    log_to_stderr("duccmake-watch")
    invocation = Invocation.parse(arguments, program="watch.py", description=DESCRIPTION)
    try:
        os.chdir(invocation.directory)
        with only_watcher(invocation.directory):
            return _watch(invocation)
    except (DuccmakeError, OSError) as error:
        logger.error("%s", error)
        return 2 if isinstance(error, CommandLineError) else 1


def _watch(invocation: Invocation) -> int:
    try:
        return asyncio.run(Watcher(invocation, Service()).run())
    except (CommandLineError, ConfigError) as error:
        _tell(invocation, error)
        raise


def _tell(invocation: Invocation, error: DuccmakeError) -> None:
    """Leave word for who asks how the last run went: there will be none."""
    try:
        settings = invocation.configuration().events
    except ConfigError:
        settings = EventSettings()
    of_failure(error, 0.0).save(invocation.directory)
    note_failure(settings, error)
