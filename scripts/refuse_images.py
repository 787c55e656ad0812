"""Take images away that earlier versions published and that are not what they say."""

import json
import sys
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.job import running
from duccmake.jobs.prune_images import refuse
from duccmake.planning.removal import refused
from duccmake.repository.open import open_repository
from duccmake.workspace.reports import Kind, Report, Rule

log, output, repository = sys.argv[1:]
with running(Rule.REFUSE_IMAGES, repository, log=log) as job:
    left = refuse(
        open_repository(job.config.repository, repository),
        refused(job.plan, repository),
        job.plan.altered.get(repository, ()),
    )
    images = tuple((item.name, item.why) for item in left)
    job.report(Report(job.name, Kind.REMOVED, repository, images=images))
    Path(output).write_text(json.dumps(images, indent=1) + "\n")
