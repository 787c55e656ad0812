"""What a moving tag stood for before: reachable by digest, for as many moves as are wished.

``.metadata/history.json`` has, for each tag's name, the manifests that it left,
the latest first, with the time of the move.  Each of these is an image of its own,
``<repository>@<digest>``, with a link, a manifest and a record.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..oci.reference import Digest
from ..products import Product
from . import json_files, removal_schedule
from .edits import Edits
from .model import ImageRecord, StagedImage
from .protocol import Repository

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Turned:
    """What moves of tags came to: configurations that stay in use, and names that went.

    ``left`` are the manifests of the latter, by name.
    """

    configs: set[str] = field(default_factory=set)
    left: dict[str, bytes] = field(default_factory=dict)


History = Mapping[str, Sequence[tuple[str, float]]]
"""Manifests that a name stood for, the latest first, and when it left them, by name."""


_ALL = 1_000_000


def name_of(name: str, manifest: Digest | str) -> str:
    """The name by digest of what ``name`` stood for; empty where the name has no tag."""
    folder, slash, last = name.rpartition("/")
    image, colon, _ = last.partition(":")
    return f"{folder}{slash}{image}@{manifest}" if colon and "@" not in last else ""


def read(content: bytes) -> dict[str, list[tuple[str, float]]]:
    """The history in a file's content; what is damaged is passed over."""
    try:
        listed = json.loads(content) if content else {}
        return {
            str(name): [
                (str(Digest.parse(one["manifest"])), removal_schedule.seconds(one["until"]))
                for one in moves
            ]
            for name, moves in listed.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("the history of tags is damaged, and begun anew")
        return {}


def kept(history: History, count: int) -> frozenset[str]:
    """The names by digest that ``count`` moves of each tag keep reachable."""
    return frozenset(
        name_of(name, manifest) for name, moves in history.items() for manifest, _ in moves[:count]
    )


def left_with(history: History, names: Collection[str]) -> frozenset[str]:
    """The names by digest that no tag's history has any more when these ``names`` leave."""
    staying = {name: moves for name, moves in history.items() if name not in names}
    leaving = {name: moves for name, moves in history.items() if name in names}
    return kept(leaving, _ALL) - kept(staying, _ALL)


def turn(edits: Edits, images: Iterable[StagedImage], now: float) -> Turned:
    """Keep what ``images`` supersede reachable by digest, and let go what is older.

    Before their own manifests and records are edited.
    """
    layout, turned = edits.layout, Turned()
    history = read(edits.content(layout.history))
    before = {name: list(moves) for name, moves in history.items()}
    for image in images:
        record = ImageRecord.read(edits.content(layout.record(image.name)))
        if record is None or record.manifest == image.manifest:
            continue
        moves = [one for one in history.get(image.name, ()) if one[0] != str(record.manifest)]
        by_digest = name_of(image.name, record.manifest)
        if image.keep.count and by_digest:
            _reach(edits, image.name, by_digest, record)
            moves.insert(0, (str(record.manifest), now))
        history[image.name] = moves[: image.keep.count]
    staying = kept(history, _ALL)
    for image in images:
        for manifest, _ in before.get(image.name, ()):
            old = name_of(image.name, manifest)
            if old not in staying and old not in image.keep.wished:
                turned.left[old] = edits.content(layout.manifest(old))
                _let_go(edits, old)
    turned.configs = {
        str(record.config)
        for name in staying
        if (record := ImageRecord.read(edits.content(layout.record(name)))) is not None
    }
    if {name: moves for name, moves in history.items() if moves} != before:
        edits.file(layout.history, _dump(history))
    return turned


def forget(edits: Edits, names: Collection[str]) -> None:
    """Strike out names that cease to be, by tag or by digest."""
    history = read(edits.content(edits.layout.history))
    left = {
        name: [one for one in moves if name_of(name, one[0]) not in names]
        for name, moves in history.items()
        if name not in names
    }
    left = {name: moves for name, moves in left.items() if moves}
    if left != history:
        edits.file(edits.layout.history, _dump(left))


def _reach(edits: Edits, name: str, by_digest: str, record: ImageRecord) -> None:
    """Publish what ``name`` stands for by its digest."""
    layout = edits.layout
    manifest = edits.content(layout.manifest(name))
    if not manifest:
        return
    renamed = replace(record, name=by_digest)
    edits.file(layout.manifest(by_digest), manifest)
    edits.file(layout.record(by_digest), json_files.dump(renamed.to_json()))
    if Product.FLAT in record.products:
        edits.symlink(layout.link(by_digest), layout.link_target(by_digest, record.config))


def _let_go(edits: Edits, name: str) -> None:
    edits.remove(edits.layout.link(name))
    edits.remove(edits.layout.manifest(name).parent)


def _dump(history: History) -> bytes:
    members: dict[str, list[dict[str, Any]]] = {
        name: [
            {"manifest": one, "until": removal_schedule.timestamp(until)} for one, until in moves
        ]
        for name, moves in sorted(history.items())
        if moves
    }
    return json_files.dump(members)


def history_of(repository: Repository) -> dict[str, list[tuple[str, float]]]:
    """The manifests that tags of a repository left, by name; see `repository.history`."""
    with repository.reading():
        return read(repository.view.content(repository.view.layout.history))
