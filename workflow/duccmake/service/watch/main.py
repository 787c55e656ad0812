"""The watcher as a program."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

from ...errors import DuccmakeError
from ..invocation import Invocation, log_to_stderr
from ..systemd import Service
from .loop import Watcher, only_watcher

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Run `snakemake` at an interval, when a wish list changes, and when a registry tells of a
pushed image. All further options are Snakemake's: `--cores N` is one that it needs."""


def main(arguments: Sequence[str]) -> int:
    """Watch until SIGTERM; returns the exit status."""
    log_to_stderr("duccmake-watch")
    invocation = Invocation.parse(arguments, program="watch.py", description=DESCRIPTION)
    try:
        os.chdir(invocation.directory)
        with only_watcher(invocation.directory):
            watcher = Watcher(invocation, Service())
            return asyncio.run(watcher.run())
    except (DuccmakeError, OSError) as error:
        logger.error("%s", error)
        return 1
