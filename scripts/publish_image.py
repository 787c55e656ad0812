"""Publish an image, and with it every other that is staged by now, in one commit."""

import json
import sys
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.away import check_staged
from duccmake.jobs.job import running
from duccmake.jobs.publish_image import learn, publish_ready
from duccmake.planning.plan import keeping
from duccmake.repository.open import open_repository
from duccmake.workspace.event_log import Action
from duccmake.workspace.reports import Kind, Report, Rule
from duccmake.workspace.results import content_store, known_content

log, output, repository, name, *inputs = sys.argv[1:]
with running(Rule.PUBLISH_IMAGE, repository, name, log=log, output=output) as job:
    image = job.plan.image(repository, name)
    job.serves([image])
    check_staged(job, inputs)
    target = open_repository(job.config.repository, repository)
    with job.events.span(Action.PUBLICATION, image_request=image.reference, image=image.name):
        record = publish_ready(
            image,
            [other for other in job.plan.wanted if other.repository == repository],
            target,
            layers=job.plan.staged_paths(repository),
            flats=job.plan.flat_paths(repository),
            store=content_store(),
            limits=job.config.repository.batch,
            keep=keeping(job.plan, job.config, repository),
        )
    job.published(image)
    if revision := target.revision:
        job.report(Report(job.name, Kind.PUBLISHED, image.title, revision=revision))
    Path(output).write_text(json.dumps(record.to_json(), indent=1) + "\n")
    learn(job.config.repository, repository, known_content(repository))
