"""Unpack one layer into a staged directory, checking both of its digests."""

from pathlib import Path

from duccmake.job import running
from duccmake.unpack import unpack_layer

key, output = snakemake.wildcards.layer, snakemake.output[0]
name = f"unpack_layer-{snakemake.wildcards.repository}-{key}"
with running(name, log=snakemake.log[0], output=output) as job:
    layer, images = job.plan.layer(key), job.plan.sources(key)
    job.serves(images)
    job.check_inputs(snakemake.input)
    with (
        job.events.span("layer_conversion", image=images[0].name, layer=layer.digest.hex) as event,
        job.progress(0, f"unpack {key}") as progress,
    ):
        event.size(layer.descriptor.size)
        unpacked = unpack_layer(
            Path(snakemake.input.blob),
            Path(output),
            digest=layer.digest,
            diff_id=layer.diff_id,
            packed=job.config.repository.packs_layers,
            limits=job.config.limits,
            progress=progress,
        )
    job.report("unpacked", bytes=unpacked.stream.diff_bytes, entries=unpacked.entries)
