"""Point a tag back to a digest that it left, and hold it there."""

import sys

from duccmake.jobs.job import running
from duccmake.jobs.rollback import repositories_with, roll_back
from duccmake.planning.plan import keeping

(log,) = sys.argv[1:]
with running("rollback", log=log) as job:
    image = job.config.image
    for repository in repositories_with(job.plan, job.config, image):
        keep = keeping(job.plan, job.config, repository.name)
        target = roll_back(repository, image, job.config.digest, keep)
        job.report("pinned", image=image, words=f"to {target} in {repository.name}")
