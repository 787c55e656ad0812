"""What layers were found to be when they were unpacked, and images held to that.

A manifest says how many bytes a blob has, a configuration what it unpacks to (its
diff_id; image-spec, config.md).  Whoever builds an image may write anything there, also
what is true of somebody else's layer: both are claims, until the blob was unpacked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DigestMismatch, DuccmakeError
from ..oci.manifest import Descriptor
from ..oci.reference import Digest

STAGED, PUBLISHED = "layer.json", "layers.json"
"""The files beside a layer's ``tree.mtree`` that have it, in the unpacker's words and in
those of containers/storage, which DUCC uses too."""

TAR_SPLIT = "tar-split.gz"
"""The file of a staged layer by which podman makes its archive again (`layer.tar_split`)."""

_COMPRESSIONS = {"bzip2": 1, "gzip": 2, "xz": 3, "zstd": 4}
"""How containers/storage numbers them (pkg/archive); 0 is no compression."""

_HINT = "the image is broken: ask its author to build and push it again"


@dataclass(frozen=True, slots=True)
class Measured:
    """What unpacking the blob ``digest`` found: sizes in bytes, a diff_id an algorithm.

    ``compression`` is containers/storage's number.
    """

    digest: Digest
    blob_bytes: int
    diff_ids: tuple[Digest, ...]
    diff_bytes: int
    compression: int = 0

    def diff_id(self, algorithm: str) -> Digest | None:
        """The diff_id by that algorithm; None where it was not taken."""
        return next((one for one in self.diff_ids if one.algorithm == algorithm), None)

    def unpacks_to(self, diff_id: Digest) -> bool:
        """Whether that was found to be its diff_id."""
        return diff_id in self.diff_ids

    def to_json(self, created: str) -> list[dict[str, Any]]:
        """The members of ``layers.json``, an object a diff_id; ``created`` is a time (RFC 3339)."""
        return [
            {
                "id": diff_id.hex,
                "created": created,
                "compressed-diff-digest": str(self.digest),
                "compressed-size": self.blob_bytes,
                "diff-digest": str(diff_id),
                "diff-size": self.diff_bytes,
                "compression": self.compression,
            }
            for diff_id in self.diff_ids
        ]


Measure = Callable[[Digest], Measured | None]
"""Gives what a blob was found to be; None where nobody has measured it."""


def staged(metadata: Path) -> Measured | None:
    """What the unpacker wrote beside a layer that it staged; None where that is damaged."""
    try:
        known = json.loads((metadata / STAGED).read_bytes())
        return Measured(
            digest=Digest.parse(known["digest"]),
            blob_bytes=int(known["blob_bytes"]),
            diff_ids=tuple(map(Digest.parse, known["diff_ids"])),
            diff_bytes=int(known["diff_bytes"]),
            compression=_COMPRESSIONS.get(known.get("compression"), 0),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def published(metadata: Path, digest: Digest) -> Measured | None:
    """What is published of a layer; None where nobody measured it.

    DUCC writes such a file as well, of what configurations claim: only beside a
    ``tree.mtree``, which DUCC has none of, it was measured.
    """
    try:
        known = json.loads((metadata / PUBLISHED).read_bytes())
        first = known[0]
        found = Measured(
            digest=Digest.parse(first["compressed-diff-digest"]),
            blob_bytes=int(first["compressed-size"]),
            diff_ids=tuple(Digest.parse(one["diff-digest"]) for one in known),
            diff_bytes=int(first["diff-size"]),
            compression=int(first.get("compression", _unlisted_compression(metadata))),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    is_ours = found.digest == digest and (metadata / "tree.mtree").is_file()
    return found if is_ours else None


def _unlisted_compression(metadata: Path) -> int:
    """The compression where an earlier version noted it only in the unpacker's words."""
    try:
        return _COMPRESSIONS.get(json.loads((metadata / STAGED).read_bytes())["compression"], 0)
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def check_diff_ids(layers: Sequence[Digest], diff_ids: Sequence[Digest], measure: Measure) -> None:
    """Hold a configuration's ``diff_ids`` to what the ``layers`` unpack to, lowest first.

    Raises `DigestMismatch` with both values where they disagree, and `DuccmakeError`
    where a layer was never measured.
    """
    for number, (layer, claimed) in enumerate(zip(layers, diff_ids, strict=True), start=1):
        measured = measure(layer)
        found = measured and measured.diff_id(claimed.algorithm)
        if found is None:
            raise DuccmakeError(
                f"what its layer {layer} unpacks to was never measured by {claimed.algorithm}",
                hint="run again: it is fetched and unpacked",
            )
        if found != claimed:
            raise DigestMismatch(
                f"its layer {number}, {layer}, unpacks to the diff_id {found} where its "
                f"configuration promises {claimed}",
                hint=_HINT,
            )


def check_sizes(layers: Sequence[Descriptor], measure: Measure) -> None:
    """Hold a manifest's descriptors to the bytes that their blobs have; `DigestMismatch`."""
    for number, layer in enumerate(layers, start=1):
        measured = measure(layer.digest)
        if measured is not None and measured.blob_bytes != layer.size:
            raise DigestMismatch(
                f"its layer {number}, {layer.digest}, has {measured.blob_bytes} bytes where its "
                f"manifest promises {layer.size}",
                hint=_HINT,
            )
