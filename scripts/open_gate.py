"""Let the layers of more images be fetched, once there is room for them."""

import sys

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.job import running
from duccmake.jobs.open_gate import wait_for_space
from duccmake.repository.open import open_repository
from duccmake.workspace.reports import Rule

log, gate = sys.argv[1:]
with running(Rule.OPEN_GATE, gate, log=log) as job:
    names = dict.fromkeys(image.repository for image in job.plan.wanted)
    repositories = [open_repository(job.config.repository, name) for name in names]
    wait_for_space(repositories, job.config.limits.staging_bytes // 2)
