"""Pointing a tag back to a manifest that it left, and holding it there.

``.metadata/pins.json`` has, for each tag's name that is held, the manifest and since
when.  What a tag is pointed back to is looked for in the repository alone: among
its images, and among what the schedule lists and is still in its time of grace.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import DuccmakeError, RepositoryError
from ..layer.measured import Measured, check_diff_ids
from ..oci.manifest import ImageConfig
from ..oci.reference import Digest
from ..products import Product
from . import history, podman, removal_schedule
from .edits import Edits
from .flat_trees import flat_tree, measured_layer
from .json_files import dump
from .metadata import publish_metadata
from .model import ImageRecord, Keep, StagedImage
from .protocol import Repository
from .view import View

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pin:
    """A manifest that a name is held at, since a time in seconds since the epoch."""

    manifest: Digest
    since: float


@dataclass(frozen=True, slots=True)
class Past:
    """What a name can be pointed back to: its record and its manifest.

    ``left`` is when the name left it, in seconds since the epoch: 0 where it never stood
    for it as far as is known.  ``shown`` is by which name readers have it; none where it
    waits to be freed.
    """

    record: ImageRecord
    manifest_bytes: bytes
    left: float
    shown: str = ""


def read_pins(written: bytes) -> dict[str, Pin]:
    """The pins in a file's content; `RepositoryError` where it is damaged.

    Without it tags would move that somebody holds back.
    """
    try:
        listed = json.loads(written) if written else {}
        return {
            str(name): Pin(Digest.parse(one["manifest"]), removal_schedule.seconds(one["since"]))
            for name, one in listed.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RepositoryError(
            ".metadata/pins.json is damaged",
            hint="restore it, or remove it to have all tags follow their registries",
        ) from None


def pin(edits: Edits, name: str, manifest: Digest, now: float) -> None:
    """Hold a name at a manifest."""
    pins = read_pins(edits.content(edits.layout.pins))
    edits.file(edits.layout.pins, _dump({**pins, name: Pin(manifest, now)}))


def unpin(edits: Edits, name: str) -> bool:
    """Let a name go; whether it was held."""
    pins = read_pins(edits.content(edits.layout.pins))
    if pins.pop(name, None) is None:
        return False
    edits.file(edits.layout.pins, _dump(pins))
    return True


def pasts(view: View, name: str, records: Callable[[], Iterator[ImageRecord]]) -> Iterator[Past]:
    """All that a name can be pointed back to, what it left itself in any order.

    ``records`` are those of the images that are wholly published.
    """
    for entry in removal_schedule.parse(view.content(view.layout.remove_schedule)):
        record = ImageRecord.from_json(entry.record)
        if record is not None and record.name == name and _is_whole(view, record):
            yield Past(record, entry.text.encode(), entry.since)
    repository = history.name_of(name, "").removesuffix("@")
    moves = dict(history.read(view.content(view.layout.history)).get(name, ()))
    for record in records():
        same = record.name.startswith((f"{repository}@", f"{repository}:"))
        if same and record.name != name and _is_whole(view, record):
            manifest = view.read(view.layout.manifest(record.name))
            own = record.name == history.name_of(name, record.manifest)
            left = moves.get(str(record.manifest), 0.0) if own else 0.0
            yield Past(record, manifest, left, record.name)


def point(
    edits: Edits,
    name: str,
    past: Past,
    others: Callable[[], Mapping[str, str]],
    keep: Keep,
) -> None:
    """Have a name stand for what it stood for before: nothing is made anew.

    Where the podman store has lost the image, the next run puts it there.
    """
    record = past.record
    configuration = podman.configuration(edits.view, record.config)
    products = tuple(one for one in record.products if one != Product.PODMAN or configuration)
    image = StagedImage(
        name=name,
        platform=record.platform,
        manifest=record.manifest,
        manifest_bytes=past.manifest_bytes,
        config=record.config,
        layers=record.layers,
        path=None,
        products=products,
        source=record.source,
        config_bytes=configuration,
        measured=_measured(edits.view, record.layers),
        keep=keep,
        fix_permissions=record.fix_permissions,
        signatures=record.signatures,
    )
    publish_metadata(edits, [image], {name: record.losses}, others)


def _is_whole(view: View, record: ImageRecord) -> bool:
    """Whether all of an image is there, and is what the image says, as far as can be told."""
    measured = _measured(view, record.layers)
    if measured is None:
        return False
    configuration = podman.configuration(view, record.config)
    if configuration and not record.verified:
        known = {one.digest: one for one in measured}
        try:
            config = ImageConfig.parse(configuration, layers=len(record.layers))
            check_diff_ids(record.layers, config.diff_ids, known.get)
        except DuccmakeError as error:
            log.warning("%s@%s is not gone back to: %s", record.name, record.manifest, error)
            return False
    flat = flat_tree(view, record.config, record.layers, measured)
    return Product.FLAT not in record.products or flat is not None


def _measured(view: View, layers: Iterable[Digest]) -> tuple[Measured, ...] | None:
    """What all of these layers were found to be; None where one was not measured."""
    found = [measured_layer(view, layer) for layer in layers]
    known = tuple(one for one in found if one is not None)
    return known if len(known) == len(found) else None


def _dump(pins: Mapping[str, Pin]) -> bytes:
    members = {
        name: {"manifest": str(one.manifest), "since": removal_schedule.timestamp(one.since)}
        for name, one in sorted(pins.items())
    }
    return dump(members)


def pins_of(repository: Repository) -> dict[str, Pin]:
    """The tags of a repository that are held, by name."""
    with repository.reading():
        return read_pins(repository.view.content(repository.view.layout.pins))
