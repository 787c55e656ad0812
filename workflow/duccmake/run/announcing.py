"""What people see at the start of a run, and of a dry run: what is pending, and the plan."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from ..planning.departures import KEPT
from ..planning.holds import held_in_words
from ..planning.model import Departure, PlannedImage, State
from ..planning.plan import Plan
from ..words import counted, in_bytes, in_time
from .lines import briefly, say, several

_LISTED = 50
"""How many images of a kind are listed one by one; more are counted."""


def announce(
    plan: Plan,
    *,
    only: Collection[str] = (),
    held_back: Mapping[str, str] | None = None,
    parts: int = 1,
    results: TextIO | None = None,
    stream: TextIO | None = None,
) -> None:
    """Say, before anything runs, what the wish lists amount to.

    ``only`` are the targets of a run that is to convert nothing, ``parts`` those that one goes
    through.  Of repositories in
    ``held_back`` nothing leaves, for the reason there.  What is to be done goes to
    ``results``, where that is what was asked for.
    """
    kept = held_back or {}
    remarks = stream or sys.stderr
    prunes = "prune" in only
    freed = plan.config_in(Path.cwd()).image if "unpin" in only else ""
    say(
        *(f"duccmake: wish list {source}" for source in plan.in_force),
        *(f"duccmake: {text}" for text in plan.warnings if not (prunes and text.endswith(KEPT))),
        *_in_the_way(plan, freed),
        *(f"duccmake: {why}" for why in kept.values()),
        stream=remarks,
    )
    say(
        *_listed("pending", [f"{image.title}  {image.why}" for image in _pending(plan)]),
        *_listed("held", [f"{title}  {briefly(title, why)}" for title, why in _held(plan)]),
        *_refused(plan),
        *_leaving(plan, kept),
        stream=results or remarks,
    )
    say(*_outlook(plan, kept, parts), stream=remarks)


def _pending(plan: Plan) -> list[PlannedImage]:
    return [image for image in plan.images if image.state == State.PENDING]


def _held(plan: Plan) -> Iterator[tuple[str, str]]:
    """What failed and is left alone for a while, each with the reason and until when."""
    images = ((image.title, image.why, image.until) for image in plan.images)
    problems = ((problem.title, problem.reason, problem.until) for problem in plan.problems)
    for title, why, until in (*images, *problems):
        if until:
            yield title, held_in_words(why, until)


def _in_the_way(plan: Plan, freed: str) -> Iterator[str]:
    """Why images are not newer, or cannot be had: each reason once, and of ``freed`` none."""
    stale: dict[str, list[str]] = {}
    for image in plan.images:
        if image.state == State.PUBLISHED and image.why and image.name != freed:
            stale.setdefault(image.why, []).append(image.title)
    for why, titles in stale.items():
        who = several(len(titles)) or f"{titles[0]}: "
        yield f"duccmake: {who}{why}; what is published stays in force"
    failing = [problem for problem in plan.problems if not problem.until]
    last = {problem.reason: problem.title for problem in failing}
    for reason, count in Counter(problem.reason for problem in failing).items():
        one = "" if reason.startswith(last[reason]) else f"{last[reason]}: "
        yield f"duccmake: {several(count) or one}{reason}"


def _refused(plan: Plan) -> Iterator[str]:
    """What earlier versions published and must not have."""
    for item in plan.refused[:_LISTED]:
        verb = "refused " if item.manifest else "expelled"
        yield f"{verb} {item.name}  published by an earlier version: {item.why}"
    for name, layers in plan.altered.items():
        if layers:
            what = f"files of other images in {counted(len(layers), 'layer')} of an earlier version"
            yield f"duccmake: {name}: {what} are taken out"


def _leaving(plan: Plan, held_back: Collection[str]) -> list[str]:
    leaving = _departures(plan, held_back)
    return _listed("leaving", [f"{item.name}  {item.why}" for item in leaving])


def _departures(plan: Plan, held_back: Collection[str]) -> list[Departure]:
    """The images that leave in this run."""
    if plan.config_in(Path.cwd()).removal.policy == "keep":
        return []
    return [item for item in plan.departures if item.repository not in held_back]


def _listed(word: str, items: Sequence[str]) -> list[str]:
    """A line for each item, up to a bound."""
    more = [f"{word}  {len(items) - _LISTED} more"] if len(items) > _LISTED else []
    return [f"{word}  {item}" for item in items[:_LISTED]] + more


def _outlook(plan: Plan, held_back: Collection[str], parts: int) -> Iterator[str]:
    """The plan in a few lines."""
    pending, held = _pending(plan), len(list(_held(plan)))
    up_to_date = sum(image.state == State.PUBLISHED for image in plan.images)
    unresolved = sum(not problem.until for problem in plan.problems)
    states = [f"{len(pending)} pending", f"{up_to_date} up to date"]
    states += [f"{held} held"] if held else []
    states += [f"{unresolved} not resolved"] if unresolved else []
    leaving = len(_departures(plan, held_back))
    states += [f"{leaving} leaving"] if leaving else []
    number = counted(len(plan.images) + len(plan.problems), "image")
    yield f"duccmake: {number}: {', '.join(states)}{_to_fetch(plan, pending)}"
    if more := "; ".join(_more(plan, pending, parts)):
        yield f"duccmake: {more}"
    for registry, (left, waiting) in sorted(plan.outlook.pulls.items()):
        need = f"{counted(waiting, 'image')} wait for theirs" if waiting else "no more are needed"
        yield f"duccmake: {registry} allows {counted(left, 'pull')} for now: {need}"


def _to_fetch(plan: Plan, pending: Sequence[PlannedImage]) -> str:
    """How much there is to download, where anything is pending."""
    if not pending:
        return ""
    layers, size = counted(len(plan.to_fetch), "new layer"), sum(plan.to_fetch.values())
    return f"; {layers}, {in_bytes(size)} to fetch"


def _more(plan: Plan, pending: Sequence[PlannedImage], parts: int) -> Iterator[str]:
    """What is known besides: what is shared, how many files, how long it takes."""
    all_bytes = sum(layer.descriptor.size for image in pending for layer in image.layers)
    shared = all_bytes - sum(plan.to_fetch.values())
    if shared > 0:
        yield f"{in_bytes(shared)} more are shared, or there already"
    found = plan.outlook
    if found.counted:
        of = "" if found.counted == len(pending) else f" in {found.counted} of the images"
        yield f"about {found.files} files{of}"
    if found.most:
        least, most = in_time(found.least), in_time(found.most)
        span = most if least == most or found.most < 2 * found.least else f"{least} to {most}"
        yield f"about {span} by earlier runs"
    if parts > 1:
        yield f"in {parts} parts"
