"""OCI image layouts, in directories and archives, as a source of images.

image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from ...errors import MANIFEST_UNKNOWN, ManifestError, NotFound
from ...oci.json_object import JsonObject
from ...oci.manifest import OCI_INDEX, Descriptor, Index, Manifest, check_schema, parse_manifest
from ...oci.reference import Digest, Reference, is_tag
from .files import LocalImages, open_plain, read_metadata, reading
from .tarball import LAYOUT_INDEX, full_name

_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
"""Where tools keep an entry's name: its tag or the whole of it."""


class Files(Protocol):
    """The files of a layout, by their names in it."""

    def open(self, name: str) -> IO[bytes]:
        """The content of a file."""
        ...


class _Directory:
    """A layout in a directory."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def open(self, name: str) -> IO[bytes]:
        return open_plain(self._path / name)


@contextmanager
def opened_directory(reference: Reference) -> Iterator[Files]:
    """The files of a reference's directory."""
    with reading(reference):
        yield _Directory(reference.path)


class OciLayouts(LocalImages):
    """The images in OCI layouts: ``index.json`` and ``blobs/``, where ``opened`` finds them.

    A tag is an entry's ``org.opencontainers.image.ref.name``, or the tag of the
    whole name that some tools write there or beside it.  Without tag and digest the
    layout has to hold one image; where no entry has a name, that is the index itself.
    """

    def __init__(
        self, opened: Callable[[Reference], AbstractContextManager[Files]] = opened_directory
    ) -> None:
        self._opened = opened

    def poll(self, reference: Reference) -> Digest:
        """The digest of the entry, from ``index.json``."""
        if reference.digest:
            return reference.digest
        with self._opened(reference) as files:
            return _Layout.read(files).choose(reference).digest

    def tags(self, reference: Reference) -> list[str]:
        """The tags of all entries, or of those with the reference's name."""
        with self._opened(reference) as files:
            tags = (entry.tag(reference.member) for entry in _Layout.read(files).entries)
            return list(dict.fromkeys(tag for tag in tags if is_tag(tag)))

    def manifest(self, reference: Reference, digest: Digest | None = None) -> Manifest | Index:
        """A manifest or an index, verified."""
        with self._opened(reference) as files:
            layout = _Layout.read(files)
            wanted = digest or reference.digest or layout.choose(reference).digest
            if wanted == layout.digest:
                return parse_manifest(layout.raw, OCI_INDEX)
            with files.open(_blob(wanted)) as file:
                content = read_metadata(file, wanted)
            Descriptor("", wanted, len(content)).verify(content)
            if not reference.digest and (chosen := layout.choose(reference)).digest == wanted:
                chosen.verify(content)
            return parse_manifest(content, algorithm=wanted.algorithm)

    @contextmanager
    def _opened_for(
        self, reference: Reference, descriptor: Descriptor
    ) -> Iterator[Callable[[], IO[bytes]]]:
        with self._opened(reference) as files:
            yield lambda: files.open(_blob(descriptor.digest))


def _blob(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of ``index.json``: its members, and the names that it goes by."""

    members: JsonObject
    names: tuple[str, ...]

    @classmethod
    def of(cls, members: JsonObject) -> _Entry:
        try:
            annotations = members.nested("annotations").all_texts()
        except ManifestError:
            # One that is not meant must not keep another from being found.
            annotations = {}
        return cls(members, tuple(annotations[name] for name in _NAMES if annotations.get(name)))

    def descriptor(self) -> Descriptor:
        """What it stands for."""
        return Descriptor.parse(self.members.members)

    def tag(self, wanted: str = "") -> str:
        """The tag that the entry has, under the name that is wanted if there is one."""
        for repository, tag in map(_split, self.names):
            if not wanted or full_name(repository, tag) == full_name(wanted, tag):
                return tag
        return ""


def _split(name: str) -> tuple[str, str]:
    """The repository, if the name has one, and the tag."""
    folder, slash, last = name.rpartition("/")
    short, colon, tag = last.rpartition(":")
    if colon:
        return f"{folder}{slash}{short}", tag
    return (name, "latest") if slash else ("", name)


@dataclass(frozen=True, slots=True)
class _Layout:
    """``index.json``: its bytes and its entries."""

    raw: bytes
    entries: list[_Entry]

    @classmethod
    def read(cls, files: Files) -> _Layout:
        with files.open(LAYOUT_INDEX) as file:
            raw = read_metadata(file, LAYOUT_INDEX)
        try:
            index = JsonObject.parse(raw, "it")
            check_schema(index)
            entries = [JsonObject.of(entry, "an entry") for entry in index.array("manifests")]
            if not index.has("manifests"):
                raise ManifestError("it has no 'manifests'")
        except ManifestError as error:
            raise ManifestError(f"{LAYOUT_INDEX} is no index of images: {error.found}") from None
        return cls(raw, [_Entry.of(entry) for entry in entries])

    @property
    def digest(self) -> Digest:
        """What the index itself goes by, where it is the image."""
        return Digest("sha256", hashlib.sha256(self.raw).hexdigest())

    def choose(self, reference: Reference) -> Descriptor:
        """What the reference's tag names, or the only image where it has none."""
        entries = self.entries
        if reference.tag:
            entries = [item for item in entries if item.tag(reference.member) == reference.tag]
            # What looks like a tag may be a name without one.
            entries = entries or [i for i in self.entries if i.tag(reference.tag) == "latest"]
        elif len(entries) > 1 and not any(item.names for item in entries):
            return Descriptor(OCI_INDEX, self.digest, len(self.raw))
        # One image may go by several names.
        found = {entry.digest: entry for entry in (item.descriptor() for item in entries)}
        if len(found) == 1:
            return next(iter(found.values()))
        known = ", ".join(name for item in self.entries for name in item.names[:1]) or "none"
        what = f"the tag {reference.tag!r}" if reference.tag else "a name without tag"
        scheme = reference.scheme
        missing = NotFound(
            f"{reference.path} has {len(found)} images for {what}; its names are: {known[:500]}",
            hint=f"name one of them, as {scheme}:path:tag or {scheme}:path@digest",
        )
        missing.code = MANIFEST_UNKNOWN
        raise missing
