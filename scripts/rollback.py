"""Point a tag back to a digest that it left, and hold it there; without one, say what there is."""

import sys

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.job import running
from duccmake.jobs.rollback import choices, repositories_with, roll_back
from duccmake.planning.plan import keeping
from duccmake.workspace.reports import Kind, Report, Rule

(log,) = sys.argv[1:]
with running(Rule.ROLLBACK, log=log) as job:
    image, digest = job.config.image, job.config.digest
    for repository in repositories_with(job.plan, job.config, image):
        if not digest:
            found = choices(repository, image, job.config.removal.grace)
            for manifest, how in found.items():
                sys.stdout.write(f"{manifest}  {how}, in {repository.name}\n")
            sys.stdout.flush()
            sys.stderr.write(
                "duccmake: nothing is changed; to go back to one, add digest=DIGEST (its first "
                "digits are enough): the tag is held there until unpin\n"
            )
            continue
        keep = keeping(job.plan, job.config, repository.name)
        target = roll_back(repository, image, digest, keep)
        words = f"to {target} in {repository.name}"
        job.report(Report(job.name, Kind.PINNED, image, words))
