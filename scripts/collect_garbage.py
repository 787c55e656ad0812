"""Remove what no image has used for its time of grace."""

import json
from dataclasses import asdict
from pathlib import Path

from duccmake.collect import collect
from duccmake.job import running
from duccmake.maintenance import collected_in_words, spoken_for
from duccmake.plan import open_repository

repository = snakemake.wildcards.repository
with running(f"collect_garbage-{repository}", log=snakemake.log[0]) as job:
    opened = open_repository(job.config, repository)
    collected = collect(
        opened,
        spoken_for=spoken_for(job.plan, repository),
        grace=job.config.removal.grace,
        batch=job.config.removal.batch,
    )
    if job.config.removal.cvmfs_gc:
        with opened.lock():
            opened.reclaim()
    job.report("collected", repository=repository, words=collected_in_words(collected))
    Path(snakemake.output[0]).write_text(json.dumps(asdict(collected), indent=1) + "\n")
