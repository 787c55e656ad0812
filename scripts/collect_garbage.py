"""Remove what no image has used for its time of grace."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.collect_garbage import collect, collected_in_words
from duccmake.jobs.job import running
from duccmake.planning.removal import spoken_for
from duccmake.repository.open import open_repository
from duccmake.workspace.reports import Kind, Report, Rule

log, output, repository = sys.argv[1:]
with running(Rule.COLLECT_GARBAGE, repository, log=log) as job:
    opened = open_repository(job.config.repository, repository)
    collected = collect(
        opened,
        spoken_for=spoken_for(job.plan, repository),
        grace=job.config.removal.grace,
        batch=job.config.removal.batch,
    )
    if job.config.removal.cvmfs_gc:
        with opened.lock():
            opened.reclaim()
    job.report(Report(job.name, Kind.FREED, repository, collected_in_words(collected)))
    Path(output).write_text(json.dumps(asdict(collected), indent=1) + "\n")
