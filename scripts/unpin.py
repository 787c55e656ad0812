"""Have a tag follow its registry again."""

import sys

from duccmake.job import running
from duccmake.maintenance import repositories_with
from duccmake.pins import lift

(log,) = sys.argv[1:]
with running("unpin", log=log) as job:
    image = job.config.image
    for repository in repositories_with(job.plan, job.config, image):
        lift(repository, image)
        job.report("unpinned", image=image, words="the next run follows its registry")
