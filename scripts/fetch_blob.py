"""Fetch one layer's blob, verified, resuming what an earlier run began."""

import sys
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.jobs.away import hand_on, settle
from duccmake.jobs.fetch_blob import fetch_layer
from duccmake.jobs.job import running
from duccmake.registry.client import Client
from duccmake.workspace.event_log import Action
from duccmake.workspace.reports import Kind, Report, Rule
from duccmake.workspace.results import LIMITS

log, output, key = sys.argv[1:]
with running(Rule.FETCH_BLOB, key, log=log, output=output) as job:
    digest, images = job.plan.layer_digest(key), job.plan.sources(key)
    job.serves(images)
    hand_on(job)
    with (
        job.events.span(Action.LAYER_DOWNLOAD, image=images[0].name, layer=digest.hex) as event,
        Client(
            job.config.registries, limits_directory=LIMITS, damaged_directory=job.damaged
        ) as client,
    ):
        fetched = fetch_layer(job.plan.claims(key), client, Path(output))
        event.size(fetched)
    settle(Path(output))
    job.report(Report(job.name, Kind.FETCHED, size=fetched))
