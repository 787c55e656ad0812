"""Unpack one layer into a staged directory, and measure what it unpacks to."""

import sys
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.away import hand_on, settle
from duccmake.jobs.job import running
from duccmake.layer.unpack import unpack_layer
from duccmake.products import Product
from duccmake.repository.open import open_staging
from duccmake.workspace.event_log import Action
from duccmake.workspace.reports import Rule
from duccmake.workspace.results import known_content, partial_layer

log, output, repository, key, blob = sys.argv[1:]
with running(Rule.UNPACK_LAYER, repository, key, log=log, output=output) as job:
    digest, images = job.plan.layer_digest(key), job.plan.sources(key)
    job.serves(images)
    hand_on(job)
    job.check_inputs([blob])
    staging = open_staging(job.config.repository, repository)
    with job.events.span(Action.LAYER_CONVERSION, image=images[0].name, layer=digest.hex) as event:
        event.size(Path(blob).stat().st_size)
        unpack_layer(
            Path(blob),
            Path(output),
            digest=digest,
            partial=partial_layer(repository, key),
            diff_algorithms=job.plan.diff_algorithms(key),
            catalogs=staging.layer(digest, known_content(repository)) if staging else None,
            split=any(Product.PODMAN in image.products for image in images),
            limits=job.config.limits,
        )
    settle(Path(output))
