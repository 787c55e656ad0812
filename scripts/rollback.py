"""Point a tag back to a digest that it left, and hold it there."""

import sys

from duccmake.job import running
from duccmake.maintenance import repositories_with
from duccmake.pins import roll_back
from duccmake.plan import keeping

(log,) = sys.argv[1:]
with running("rollback", log=log) as job:
    image = job.config.image
    for repository in repositories_with(job.plan, job.config, image):
        keep = keeping(job.plan, job.config, repository.name)
        target = roll_back(repository, image, job.config.digest, keep)
        job.report("pinned", image=image, words=f"to {target} in {repository.name}")
