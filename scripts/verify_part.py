"""Look at a part of what is published; damage is no failure of this job."""

import sys
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.job import running
from duccmake.jobs.verify_part import Pace, verify_part
from duccmake.planning.verdict import Part
from duccmake.repository.open import open_repository
from duccmake.workspace.reports import Rule
from duccmake.workspace.results import content_store

log, output, repository, key = sys.argv[1:]
with running(Rule.VERIFY_PART, repository, key, log=log) as job:
    verify_part(
        Part.load(Path(output)),
        open_repository(job.config.repository, repository),
        content_store(),
        Pace(job.config.verify.bytes_per_second),
    )
