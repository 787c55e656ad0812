"""What ``snakemake verify`` and ``snakemake repair`` leave behind: what is damaged still."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.configuration import Config
from ..errors import one_line
from ..fs.files import write_atomically
from ..planning.plan import Plan, repositories
from ..planning.verdict import Found, Verdict, asked_for, everything, forget
from ..repository.damage import Reading
from ..repository.layout import split_variant
from ..repository.open import open_repository
from ..repository.verification import Verification
from ..workspace.results import STATUS, content_store
from .document import Sync
from .page.writer import write_page
from .standing import DAMAGED, of_damage, wear
from .status import Outcome, Result, read_document


def after_repair(plan: Plan, config: Config, results: Sequence[Result]) -> list[Result]:
    """What became of images that were to be mended: what was damaged is looked at once more.

    What is right by now is damaged no more.
    """
    still: list[Result] = []
    for name in repositories(plan):
        still += _looked_at_again(name, config)
    damaged = {item.title for item in still}
    mended = [
        replace(item, outcome=Outcome.MENDED)
        if item.outcome == Outcome.CONVERTED and item.title not in damaged
        else item
        for item in results
        if not (item.outcome == Outcome.CONVERTED and item.title in damaged)
    ]
    return [*mended, *still]


def _looked_at_again(name: str, config: Config) -> Iterator[Result]:
    verdict = Verdict.load(name)
    if verdict is None:
        return
    repository = open_repository(config.repository, name)
    verification = Verification(repository, Reading(verdict.content), content_store().get)
    there, is_asked_for = everything(repository), asked_for(config.images)
    still: list[Found] = []
    for found in verdict.found:
        users = there.get(found.thing, found.users)
        if config.images and not any(is_asked_for(split_variant(one)[1]) for one in users):
            still.append(found)
            continue
        again = Found.of(found.thing, users, verification.find(found.thing))
        if again is not None:
            still.append(again)
            for path, words in again.told():
                yield Result(again.title, Outcome.DAMAGED, f"{path}: {words}")
    looked_at = [found.thing for found in verdict.found]
    replace(verdict.after(looked_at, still, there.keys()), made=round(time.time(), 3)).save()
    forget([name])


def note_damage(names: Iterable[str], workdir: Path) -> None:
    """Have the document of the last run say which images are damaged, and which not any more."""
    members = read_document(workdir)
    if "totals" not in members or "images" not in members:
        return
    known = {name: Verdict.load(name) or Verdict(name) for name in names}
    for image in members["images"]:
        if image["repository"] in known:
            _note(image, known[image["repository"]])
    members["totals"]["health"] = Counter(image["health"] for image in members["images"])
    with suppress(OSError):
        write_atomically(workdir / STATUS, json.dumps(members).encode() + b"\n")
        write_page(workdir / STATUS)


def _note(image: dict[str, Any], verdict: Verdict) -> None:
    damage = verdict.damage_of(image["name"], image["current"])
    if image["sync"] != Sync.UP_TO_DATE:
        return  # its document says more
    if damage:
        image["health"], image["verdict"], image["reason"] = map(
            one_line, of_damage(image["sync"], damage)
        )
    elif image["reason"].startswith(DAMAGED):
        health = wear(image["current"], image["losses"])
        image["health"], image["verdict"], image["reason"] = health, image["sync"], ""
