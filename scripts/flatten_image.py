"""Merge the manifests of an image's layers into that of its flat tree."""

import sys
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.away import hand_on, settle
from duccmake.jobs.flatten_image import stage_flat_tree
from duccmake.jobs.job import running
from duccmake.repository.open import open_repository, open_staging
from duccmake.workspace.event_log import Action
from duccmake.workspace.reports import Kind, Report, Rule
from duccmake.workspace.results import content_store

log, output, repository, key, *inputs = sys.argv[1:]
with running(Rule.FLATTEN_IMAGE, repository, key, log=log, output=output) as job:
    images = job.plan.with_tree(repository, key)
    job.serves(images)
    hand_on(job)
    job.check_inputs(inputs)
    with job.events.span(
        Action.FLAT_CONVERSION, image_request=images[0].reference, image=images[0].name
    ):
        files = stage_flat_tree(
            images[0],
            open_repository(job.config.repository, repository),
            content_store(),
            Path(output),
            staged=job.plan.staged_paths(repository),
            mount_points=job.config.flat.mount_points,
            staging=open_staging(job.config.repository, repository),
        )
    settle(Path(output))
    job.report(Report(job.name, Kind.FLATTENED, images[0].title, files=files))
