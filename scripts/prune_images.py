"""Take the names of images away that are not wished for any more; what they had stays for now."""

import json
import sys
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.job import running
from duccmake.jobs.prune_images import prune
from duccmake.planning.removal import departures
from duccmake.repository.open import open_repository
from duccmake.workspace.reports import Kind, Report, Rule

log, output, repository = sys.argv[1:]
with running(Rule.PRUNE_IMAGES, repository, log=log) as job:
    left = prune(
        open_repository(job.config.repository, repository),
        departures(job.plan, repository),
        max_percent=job.config.removal.max_percent,
        force=job.config.force_removal,
    )
    images = tuple((item.name, item.why) for item in left)
    job.report(Report(job.name, Kind.REMOVED, repository, images=images))
    Path(output).write_text(json.dumps(images, indent=1) + "\n")
