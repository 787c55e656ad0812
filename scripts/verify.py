"""Say what is damaged in all that was looked at: the run fails for it, and not this job."""

import sys
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.job import running
from duccmake.jobs.verify import conclude, reports
from duccmake.workspace.reports import Rule

log, seed, *outputs = sys.argv[1:]
with running(Rule.VERIFY, log=log) as job:
    for verdict, found in conclude(map(Path, outputs), job.config, int(seed)):
        for report in reports(job.name, verdict, found):
            job.report(report)
