"""What refers to an image, kept beside its manifest: signatures, lists of contents, attestations.

It is an OCI layout (image-spec, image-layout.md) with the artifacts' manifests and their blobs,
and with the index that the image was found by, since that may be what is signed: so whatever
reads layouts can check it later without the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from ..errors import DuccmakeError
from ..oci.manifest import OCI_INDEX
from ..oci.reference import Digest
from .edits import Edits
from .json_files import dump
from .model import StagedImage

_INDEX = "index.json"
_LAYOUT = {"imageLayoutVersion": "1.0.0"}


def kept_files(
    referrers: Mapping[str, Any], content: Callable[[Digest], bytes | None]
) -> dict[str, bytes]:
    """The layout's files by path, of ``manifests`` (descriptors) and the digests of ``blobs``.

    Raises `DuccmakeError` where some of the content is not there any more.
    """
    if not referrers:
        return {}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": referrers["manifests"]}
    files = {"oci-layout": dump(_LAYOUT), _INDEX: dump(index)}
    for digest in map(Digest.parse, referrers["blobs"]):
        found = content(digest)
        if found is None:
            raise DuccmakeError(
                f"{digest}, which refers to it, is not kept any more",
                step="publish",
                hint="run again: it is fetched anew",
            )
        files[f"blobs/{digest.algorithm}/{digest.hex}"] = found
    return files


def publish(edits: Edits, image: StagedImage) -> None:
    """Put what is kept of an image's referrers, in place of what was kept before.

    What the index lists goes by its digest, so where it is the same, all is.
    """
    directory = edits.layout.referrers(image.name)
    before = edits.content(directory / _INDEX)
    if before and before == image.referrers.get(_INDEX) and not image.anew:
        return
    edits.remove(directory)
    for path, content in image.referrers.items():
        edits.file(directory / PurePosixPath(path), content)
