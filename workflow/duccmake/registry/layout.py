"""OCI image layouts as a source of images (image-spec 1.1, image-layout.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import MANIFEST_UNKNOWN, ManifestError, NotFound
from ..json_object import JsonObject
from ..manifest import OCI_INDEX, Descriptor, Index, Manifest, check_schema, parse_manifest
from ..reference import Digest, Reference, is_tag
from .files import copy_blob, open_plain, read_metadata, reading

_REF_NAME = "org.opencontainers.image.ref.name"


class OciLayouts:
    """The images in OCI layouts: directories with ``index.json`` and ``blobs/``.

    A tag is an entry's ``org.opencontainers.image.ref.name``, or the tag of the
    whole name that some tools write there.  Without tag and digest the layout has
    to hold one image; where no entry has a name, that is the index itself.
    """

    def poll(self, reference: Reference) -> Digest:
        """The digest of the entry, from ``index.json``."""
        with reading(reference):
            return reference.digest or _Layout.read(reference).choose(reference).digest

    def tags(self, reference: Reference) -> list[str]:
        """The tags of all entries."""
        with reading(reference):
            names = map(_tag, _Layout.read(reference).entries)
            return list(dict.fromkeys(name for name in names if is_tag(name)))

    def manifest(self, reference: Reference, digest: Digest | None = None) -> Manifest | Index:
        """A manifest or an index, verified."""
        with reading(reference):
            layout = _Layout.read(reference)
            wanted = digest or reference.digest or layout.choose(reference).digest
            if wanted == layout.digest:
                return parse_manifest(layout.raw, OCI_INDEX)
            with open_plain(_blob(reference, wanted)) as file:
                content = read_metadata(file, wanted)
            Descriptor("", wanted, len(content)).verify(content)
            if not reference.digest and (chosen := layout.choose(reference)).digest == wanted:
                chosen.verify(content)
            return parse_manifest(content, algorithm=wanted.algorithm)

    def blob_bytes(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A small blob, verified."""
        with reading(reference), open_plain(_blob(reference, descriptor.digest)) as file:
            return descriptor.verify(read_metadata(file, descriptor.digest))

    def fetch_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        path: Path,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Copy a blob to ``path``, verified."""
        with reading(reference):
            source = _blob(reference, descriptor.digest)
            return copy_blob(reference, descriptor, lambda: open_plain(source), path, progress)


def _blob(reference: Reference, digest: Digest) -> Path:
    return Path(reference.path) / "blobs" / digest.algorithm / digest.hex


@dataclass(frozen=True, slots=True)
class _Layout:
    """``index.json``: its bytes and its entries."""

    raw: bytes
    entries: list[JsonObject]

    @classmethod
    def read(cls, reference: Reference) -> _Layout:
        path = Path(reference.path) / "index.json"
        with open_plain(path) as file:
            raw = read_metadata(file, path)
        try:
            index = JsonObject.parse(raw, "it")
            check_schema(index)
            entries = [JsonObject.of(entry, "an entry") for entry in index.array("manifests")]
            if not index.has("manifests"):
                raise ManifestError("it has no 'manifests'")
        except ManifestError as error:
            raise ManifestError(f"{path} is no index of images: {error.found}") from None
        return cls(raw, entries)

    @property
    def digest(self) -> Digest:
        """What the index itself goes by, where it is the image."""
        return Digest("sha256", hashlib.sha256(self.raw).hexdigest())

    def choose(self, reference: Reference) -> Descriptor:
        """What the reference's tag names, or the only image where it has none."""
        entries = self.entries
        if reference.tag:
            entries = [entry for entry in entries if _tag(entry) == reference.tag]
        elif len(entries) > 1 and not any(map(_tag, entries)):
            return Descriptor(OCI_INDEX, self.digest, len(self.raw))
        if len(entries) == 1:
            return Descriptor.parse(entries[0].members)
        known = ", ".join(filter(None, map(_tag, self.entries))) or "none"
        what = f"the tag {reference.tag!r}" if reference.tag else "a name without tag"
        missing = NotFound(
            f"{reference.path} has {len(entries)} images for {what}; its tags are: {known[:500]}",
            mend="name one of them, as oci:path:tag or oci:path@digest",
        )
        missing.code = MANIFEST_UNKNOWN
        raise missing


def _tag(entry: JsonObject) -> str:
    try:
        name = entry.nested("annotations").all_texts().get(_REF_NAME, "")
    except ManifestError:
        # One that is not meant must not keep another from being found.
        return ""
    return name.rpartition("/")[2].rpartition(":")[2]
