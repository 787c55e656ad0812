"""What an overlay of an image's published layers does not show as the image has it.

A published layer is what unpacking its blob gives, whatever other layers an image
has.  Flattening notes for each layer of an image what comes of that in the image's
chain: nothing of it is put into the layer, where other images would have it too.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..tree import mtree
from ..tree.mtree import LOST, Entry

log = logging.getLogger(__name__)

Notes = Mapping[int, list[Entry]]
"""What is noted of each layer by its number, lowest is 0; others are shown as they are."""

_WHITEOUT = frozenset({b"whiteout"})


def read(staged: Path) -> Notes:
    """The notes of a staged image.

    Layers are numbered, since images that share a configuration, and so what is staged,
    may have their layers in other compressions.
    """
    paths = (staged / "layers").glob("*.mtree")
    return {int(path.stem): list(mtree.read(path)) for path in sorted(paths)}


def losses(notes: Notes) -> Counter[str]:
    """How much an overlay of the published layers does not show as it is, by kind."""
    flags = (flag for entries in notes.values() for entry in entries for flag in entry.flags)
    return Counter(flag[len(LOST) :].decode() for flag in flags if flag.startswith(LOST))


def hidden(entries: Iterable[Entry]) -> list[bytes]:
    """What opaque directories of a layer hide, by its path."""
    return [entry.path for entry in entries if entry.flags == _WHITEOUT]


def warn(image: str, lost: Mapping[str, int]) -> None:
    """Log what an overlay of an image's published layers does not show as it is."""
    if lost:
        log.warning(
            "an overlay of the published layers of %s lacks this (the flat tree and podman's "
            "store have it): %s",
            image,
            ", ".join(f"{count} {kind}" for kind, count in sorted(lost.items())),
        )
