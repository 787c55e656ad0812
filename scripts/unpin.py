"""Have a tag follow its registry again."""

import sys

from duccmake.jobs.job import running
from duccmake.jobs.rollback import lift, repositories_with

(log,) = sys.argv[1:]
with running("unpin", log=log) as job:
    image = job.config.image
    for repository in repositories_with(job.plan, job.config, image):
        lift(repository, image)
        job.report("unpinned", image=image, words="the next run follows its registry")
