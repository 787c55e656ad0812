"""Point a tag back to a digest that it left, and hold it there."""

import sys

from duccmake.jobs.job import running
from duccmake.jobs.rollback import repositories_with, roll_back
from duccmake.planning.plan import keeping
from duccmake.workspace.reports import Pinned, Rule

(log,) = sys.argv[1:]
with running(Rule.ROLLBACK, log=log) as job:
    image = job.config.image
    for repository in repositories_with(job.plan, job.config, image):
        keep = keeping(job.plan, job.config, repository.name)
        target = roll_back(repository, image, job.config.digest, keep)
        job.report(Pinned(job.name, image, f"to {target} in {repository.name}"))
