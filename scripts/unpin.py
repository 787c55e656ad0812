"""Have a tag follow its registry again."""

import sys

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.job import running
from duccmake.jobs.rollback import lift, repositories_with
from duccmake.workspace.reports import Kind, Report, Rule

(log,) = sys.argv[1:]
with running(Rule.UNPIN, log=log) as job:
    image = job.config.image
    for repository in repositories_with(job.plan, job.config, image):
        lift(repository, image)
        words = "the next run follows its registry"
        job.report(Report(job.name, Kind.UNPINNED, image, words))
