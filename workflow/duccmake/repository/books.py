"""An image's metadata, DUCC's books and the public links, as edits of a repository.

Whatever the backend, a published image leaves the same files; they are computed
here from what the repository shows at the time, under the publisher's lock.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..errors import RepositoryError
from ..reference import Digest
from . import RECORD_FORMAT, ImageRecord, StagedImage, ducc, podman, schedule
from .edits import Edits
from .layout import Layout

Losses = Mapping[str, int]
"""What the repository could not keep of an image, by kind; see `ImageRecord`."""


def wished_record(image: StagedImage, losses: Losses) -> ImageRecord:
    """The record that an image has once it is published."""
    return ImageRecord(
        name=image.name,
        platform=image.platform,
        manifest=image.manifest,
        config=image.config,
        layers=image.layers,
        products=image.products,
        losses=dict(losses),
        source=dict(image.source),
    )


def flat_losses(layout: Layout, config: Digest) -> dict[str, int] | None:
    """The losses of a flat tree that is there as this version makes it, else None."""
    try:
        known = json.loads(layout.flat_record(config).read_bytes())
        losses = {str(kind): int(count) for kind, count in known["losses"].items()}
        current = known["format"] == RECORD_FORMAT
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = layout.flat(config).is_dir() and layout.flat_manifest(config).is_file()
    return losses if current and whole else None


def known_losses(layout: Layout, image: StagedImage) -> dict[str, int]:
    """The losses of a published image that only gets further products.

    Raises `RepositoryError` where it is not there any more as it is wished.
    """
    try:
        record = ImageRecord.from_json(json.loads(layout.record(image.name).read_bytes()))
        whole = (record.manifest, record.format) == (image.manifest, RECORD_FORMAT)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole or ("flat" in image.products and flat_losses(layout, image.config) is None):
        raise RepositoryError("it was published, but is not any more", mend="run again")
    return record.losses


def check_link(layout: Layout, name: str) -> None:
    """Raise `RepositoryError` where something stands in the way of an image's public link."""
    link = layout.link(name)
    if os.path.lexists(link) and not link.is_symlink():
        raise RepositoryError(
            f"{link} is in the way of its link", mend="move it away and run again"
        )
    for parent in link.parents:
        if parent == layout.root:
            break
        if parent.is_symlink():
            raise RepositoryError(
                f"{parent} is a symlink where a directory is needed",
                mend="no image's name can lead through another image",
            )


def note_flat_tree(edits: Edits, layout: Layout, image: StagedImage, losses: Losses) -> None:
    """Note what a new flat tree was made of."""
    known = {
        "format": RECORD_FORMAT,
        "config": str(image.config),
        "layers": [str(digest) for digest in image.layers],
        "losses": dict(losses),
    }
    edits.file(layout.flat_record(image.config), dump(known))


def publish_metadata(
    edits: Edits,
    layout: Layout,
    images: Sequence[StagedImage],
    losses: Mapping[str, Losses],
    others: Callable[[], Mapping[str, str]],
) -> None:
    """Manifests and records of ``images``, DUCC's books, podman's store, and last the public links.

    ``losses`` are each image's, by name; ``others`` tells the configurations of
    the images that stay as they are, by name.
    """
    superseded = [
        entry
        for image in images
        for entry in schedule.entered(
            edits.content(layout.manifest(image.name)),
            image.name,
            f"moved to {image.manifest}",
            time.time(),
        )
    ]
    for image in images:
        edits.file(layout.manifest(image.name), image.manifest_bytes)
        record = wished_record(image, losses[image.name])
        edits.file(layout.record(image.name), dump(record.to_json()))
    _note_origins(edits, layout, images)
    _schedule(edits, layout, superseded, {str(image.config) for image in images}, others)
    podman.publish(edits, layout, images)
    for image in images:
        link = layout.link(image.name)
        if "flat" in image.products:
            edits.symlink(link, layout.link_target(image.name, image.config))
        elif link.is_symlink():
            edits.remove(link)


def _note_origins(edits: Edits, layout: Layout, images: Iterable[StagedImage]) -> None:
    users: dict[Digest, dict[str, None]] = {}
    for image in images:
        for digest in image.layers:
            users.setdefault(digest, {})[str(image.config)] = None
    for digest, configs in users.items():
        origin = layout.origin(digest)
        edits.file(origin, ducc.origins(edits.content(origin), configs))


def _schedule(
    edits: Edits,
    layout: Layout,
    superseded: Sequence[schedule.Entry],
    wished: set[str],
    others: Callable[[], Mapping[str, str]],
) -> None:
    """Enter what lost its name, and strike out what is published again."""
    content = edits.content(layout.remove_schedule)
    if superseded:
        wished = wished | set(others().values())
    if superseded or content:
        entries = [*schedule.parse(content), *superseded]
        edits.file(layout.remove_schedule, schedule.dump(schedule.without(entries, wished)))


def dump(value: object) -> bytes:
    """JSON as it is kept in a repository."""
    return json.dumps(value, indent=1).encode() + b"\n"
