"""Let the layers of more images be fetched, once there is room for them."""

import sys

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.job import running
from duccmake.jobs.open_gate import wait_for_space
from duccmake.workspace.reports import Rule

log, gate = sys.argv[1:]
with running(Rule.OPEN_GATE, gate, log=log) as job:
    wait_for_space(job.config.limits.staging_bytes // 2)
