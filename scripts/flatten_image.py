"""Merge the manifests of an image's layers into that of its flat tree."""

from pathlib import Path

from duccmake.job import running
from duccmake.plan import content_store, open_repository
from duccmake.stage import stage_flat_tree

repository, key = snakemake.wildcards.repository, snakemake.wildcards.config
with running(
    f"flatten_image-{repository}-{key}", log=snakemake.log[0], output=snakemake.output[0]
) as job:
    images = job.plan.with_config(repository, key)
    job.serves(images)
    job.check_inputs(snakemake.input)
    with job.events.span(
        "flat_conversion", image_request=images[0].reference, image=images[0].name
    ):
        entries = stage_flat_tree(
            images[0],
            open_repository(job.config, repository),
            content_store(),
            Path(snakemake.output[0]),
            staged=job.plan.staged_paths(repository),
            mount_points=job.config.flat.mount_points,
        )
    job.report("flattened", entries=entries)
