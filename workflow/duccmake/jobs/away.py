"""Jobs on other machines than the run's own: how they fail, and when what they made is there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..fs.syscalls import sync_filesystem
from .job import Job

AWAY_VARIABLE = "DUCCMAKE_AWAY"
"""The environment variable that is set where a cluster runs the job."""

BOOT_VARIABLE = "DUCCMAKE_BOOT"
"""The environment variable that tells jobs which boot of the run's machine it is."""


def is_away() -> bool:
    """Whether this is a job of a cluster."""
    return bool(os.environ.get(AWAY_VARIABLE))


def hand_on(job: Job) -> None:
    """Have a job that is away hand its failure on to who publishes, whatever image it is for.

    What runs together as one job of a cluster fails together for Snakemake, and one layer
    would take others' along.  A job that is lost with its machine, or has not got enough
    memory or time, fails all the same, and is tried again.
    """
    job.ignorable = job.ignorable or is_away()


def check_staged(job: Job, paths: Iterable[str]) -> None:
    """Raise the failure that a job before this one handed on, and leave it where it is.

    Other images' jobs come to it as well; the end of the run takes it away.
    """
    ignorable, job.ignorable = job.ignorable, True
    try:
        job.check_inputs(paths)
    finally:
        job.ignorable = ignorable


def settle(output: Path) -> None:
    """Have what a job that is away made be on the disk before it counts as done.

    Who publishes cannot see to that from another machine.
    """
    if is_away():
        sync_filesystem(output.parent)
