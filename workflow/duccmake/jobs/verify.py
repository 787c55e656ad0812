"""What was found in all parts of the repositories that were verified, put together."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..config.configuration import Config
from ..planning.verdict import Found, Part, Users, Verdict, everything, forget
from ..repository.damage import Thing
from ..repository.open import open_repository
from ..words import counted
from ..workspace.reports import JobName, Kind, Report
from ..workspace.results import verdict as verdict_file

_TOLD = 100
"""So many damaged things are told of one by one; more are counted."""


def conclude(
    outputs: Iterable[Path], config: Config, seed: int
) -> Iterator[tuple[Verdict, list[Found]]]:
    """The verdicts of the repositories that parts are of, each with what was found now.

    They are written, and the parts are forgotten.
    """
    parts: dict[str, list[Part]] = {}
    for output in outputs:
        part = Part.load(output)
        parts.setdefault(part.repository, []).append(part)
    for name, those in parts.items():
        there = everything(open_repository(config.repository, name))
        looked_at = {thing for part in those for thing in part.things}
        found = [_used(one, there) for part in those for one in _found(part)]
        before = Verdict.load(name) or Verdict(name)
        verdict = replace(
            before.after(looked_at, found, there.keys() | looked_at),
            made=round(time.time(), 3),
            content=config.content,
            sample=config.sample,
            seed=seed,
            verified=dict(Counter(thing.kind for thing in looked_at)),
        )
        verdict.save()
        yield verdict, sorted(found, key=lambda one: one.thing)
    forget(parts)


def _found(part: Part) -> Iterator[Found]:
    return map(Found.from_json, json.loads(part.output.read_bytes()))


def _used(found: Found, there: Mapping[Thing, Users]) -> Found:
    """With all images that have it, also those that nobody asked for."""
    return replace(found, users=there.get(found.thing, found.users))


def reports(job: JobName, verdict: Verdict, found: Sequence[Found]) -> Iterator[Report]:
    """What a run says of it: some of what is damaged, and how much there is."""
    yield Report(job, Kind.VERIFIED, verdict.repository, verdict.looked_at)
    for one in found[:_TOLD]:
        yield Report(job, Kind.DAMAGED, one.title, images=tuple(one.told()))
    if (more := len(found) - _TOLD) > 0:
        words = f"{counted(more, 'damaged thing')} more: see {verdict_file(verdict.repository)}"
        yield Report(job, Kind.DAMAGED, verdict.repository, images=(("", words),))
