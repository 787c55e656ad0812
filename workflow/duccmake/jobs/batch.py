"""How much one commit takes: images are taken along until a limit is reached."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..config.configuration import BatchSettings
from ..oci.reference import Digest
from ..repository.model import StagedImage


class Batch:
    """Counts what a commit has so far; ``layers`` says where, by digest, layers are staged."""

    def __init__(self, limits: BatchSettings, layers: Mapping[str, Path]) -> None:
        self._limits = limits
        self._paths = layers
        self._images = 0
        self._bytes = 0
        self._entries = 0
        self._counted: set[Digest] = set()

    def take(self, image: StagedImage) -> bool:
        """Count an image and say so, unless it is one too many; the first always fits."""
        size, entries = self._cost(image)
        limits = self._limits
        if self._images and (
            _exceeds(self._images + 1, limits.images)
            or _exceeds(self._bytes + size, limits.bytes)
            or _exceeds(self._entries + entries, limits.entries)
        ):
            return False
        self._images += 1
        self._bytes += size
        self._entries += entries
        self._counted |= {image.config, *image.layers}
        return True

    def _cost(self, image: StagedImage) -> tuple[int, int]:
        size = entries = 0
        for summary in self._summaries(image):
            size += int(summary.get("diff_bytes", 0))
            entries += int(summary.get("entries", 0))
        if image.path is not None and image.config not in self._counted:
            entries += _lines(image.path / "tree.mtree")
        return size, entries

    def _summaries(self, image: StagedImage) -> Iterator[Mapping[str, int]]:
        """What the unpacker noted of the layers that are staged, each once."""
        for digest in dict.fromkeys(image.layers):
            path = self._paths.get(str(digest))
            if path is not None and digest not in self._counted:
                try:
                    summary = json.loads((path / ".metadata" / "layer.json").read_bytes())
                except (OSError, ValueError):
                    continue  # published, or about to be found damaged
                yield summary


def _lines(path: Path) -> int:
    count = 0
    with path.open("rb") as content:
        while piece := content.read(1024 * 1024):
            count += piece.count(b"\n")
    return count


def _exceeds(value: int, limit: int) -> bool:
    return bool(limit) and value > limit
