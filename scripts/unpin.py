"""Have a tag follow its registry again."""

from duccmake.job import running
from duccmake.maintenance import repositories_with
from duccmake.pins import lift

with running("unpin", log=snakemake.log[0]) as job:
    image = job.config.image
    for repository in repositories_with(job.plan, job.config, image):
        lift(repository, image)
        job.report("unpinned", image=image, words="the next run follows its registry")
