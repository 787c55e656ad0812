"""Archives of ``docker save``, ``podman save`` and skopeo as a source of images.

Such an archive has no manifest as registries have them: one is put together
from its ``manifest.json``, and is the same whenever the images are.  Layers are
plain tars mostly, so that a layer's digest is its diff_id, which its download
verifies; only compressed ones have to be read for their digests.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import MANIFEST_UNKNOWN, InvalidReference, ManifestError, NotFound, RegistryError
from ..json_object import JsonObject, parse_json
from ..manifest import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Manifest,
    parse_manifest,
)
from ..reference import Digest, Reference
from .files import copy_blob, open_plain, read_metadata, reading

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_COMPRESSIONS = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}
_MAX_LINKS = 8
_MANIFEST = "manifest.json"


class DockerArchives:
    """The images in archives, with several in one told apart by their names."""

    def poll(self, reference: Reference) -> Digest:
        """The digest of the manifest that is put together."""
        return self.manifest(reference).digest

    def tags(self, reference: Reference) -> list[str]:
        """The tags of the reference's image in the archive, or of all without a name."""
        wanted = _normal(reference.member, "x") if reference.member else None
        with _opened(reference) as archive:
            return list(
                dict.fromkeys(
                    name.tag
                    for entry in archive.entries()
                    for name in entry.names
                    if wanted is None or name.repository == wanted.repository
                )
            )

    def manifest(self, reference: Reference, digest: Digest | None = None) -> Manifest:
        """The manifest, put together anew; it must be ``digest`` where that is given."""
        with _opened(reference) as archive:
            found = archive.image(reference).manifest
        if digest not in (None, found.digest):
            raise RegistryError(
                f"{reference.path} was changed while it was read",
                image=reference.name,
                mend="run again; an archive is replaced best by renaming a new one",
            )
        return found

    def blob_bytes(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """The configuration, verified."""
        with _opened(reference) as archive:
            name = archive.image(reference).member(descriptor)
            return descriptor.verify(read_metadata(archive.open(name), descriptor.digest))

    def fetch_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        path: Path,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Copy a layer to ``path``, verified."""
        with _opened(reference) as archive:
            name = archive.image(reference).member(descriptor)
            return copy_blob(reference, descriptor, lambda: archive.open(name), path, progress)


@dataclass(frozen=True, slots=True)
class _Name:
    repository: str
    tag: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image of ``manifest.json``: names of members, and the names it was saved by."""

    config: str
    layers: tuple[str, ...]
    names: tuple[_Name, ...]

    @classmethod
    def parse(cls, value: object) -> _Entry:
        members = JsonObject.of(value, f"an entry of the archive's {_MANIFEST}")
        names = []
        for text in members.texts("RepoTags"):
            repository, _, tag = text.rpartition(":")
            names.append(_normal(repository, tag))
        return cls(members.text("Config"), members.texts("Layers"), tuple(names))


@dataclass(frozen=True, slots=True)
class _Image:
    """An image with its manifest, and the members of the archive that its blobs are."""

    manifest: Manifest
    members: Mapping[Digest, str]

    def member(self, descriptor: Descriptor) -> str:
        try:
            return self.members[descriptor.digest]
        except KeyError:
            raise NotFound(
                f"the archive does not have {descriptor.digest} any more", mend="run again"
            ) from None


@contextmanager
def _opened(reference: Reference) -> Iterator[_Archive]:
    try:
        with (
            reading(reference),
            open_plain(Path(reference.path)) as file,
            tarfile.open(fileobj=file, mode="r:*") as tar,
        ):
            yield _Archive(tar, reference.path)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ManifestError(
            f"{reference.path} is no tar archive, or damaged ({type(error).__name__})",
            image=reference.name,
            mend="see whether it was written to its end, and write it again",
        ) from None


class _Archive:
    """An open archive."""

    def __init__(self, tar: tarfile.TarFile, path: str) -> None:
        self._tar = tar
        self._path = path
        self._members = {posixpath.normpath(member.name): member for member in tar}

    def entries(self) -> list[_Entry]:
        """The images of ``manifest.json``."""
        with self.open(_MANIFEST) as file:
            entries = parse_json(read_metadata(file, _MANIFEST), f"the archive's {_MANIFEST}")
        if not isinstance(entries, list):
            raise ManifestError(f"the archive's {_MANIFEST} is no list of images")
        return [_Entry.parse(entry) for entry in entries]

    def image(self, reference: Reference) -> _Image:
        """The image that the reference names, or the only one."""
        entry = self._choose(reference)
        with self.open(entry.config) as file:
            raw = read_metadata(file, entry.config)
        config = ImageConfig.parse(raw, layers=len(entry.layers))
        layers = [
            self._layer(name, diff_id)
            for name, diff_id in zip(entry.layers, config.diff_ids, strict=True)
        ]
        digest = Digest("sha256", hashlib.sha256(raw).hexdigest())
        members = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _to_json(Descriptor(OCI_CONFIG, digest, len(raw))),
            "layers": [_to_json(layer) for layer in layers],
        }
        manifest = parse_manifest(json.dumps(members, separators=(",", ":")).encode())
        assert isinstance(manifest, Manifest)
        names = {layer.digest: name for layer, name in zip(layers, entry.layers, strict=True)}
        return _Image(manifest, {**names, digest: entry.config})

    def open(self, name: str) -> IO[bytes]:
        """The content of a member, from the archive as it is open."""
        content = self._tar.extractfile(self._member(name))
        assert content is not None
        return content

    def _choose(self, reference: Reference) -> _Entry:
        entries = self.entries()
        if reference.member or reference.tag:
            entries = [entry for entry in entries if _is_meant(reference, entry)]
        if len(entries) == 1:
            return entries[0]
        known = ", ".join(f"{n.repository}:{n.tag}" for e in self.entries() for n in e.names)
        missing = NotFound(
            f"{self._path} has {len(entries)} such images; it has these names: "
            f"{known[:500] or 'none'}",
            mend="name one of them, as docker-archive:path:name:tag",
        )
        missing.code = MANIFEST_UNKNOWN
        raise missing

    def _member(self, name: str) -> tarfile.TarInfo:
        """A plain file of the archive, by way of the links that ``docker save`` puts into it."""
        path = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            member = self._members.get(path)
            if member is None:
                break
            if member.isreg():
                return member
            if member.issym():
                path = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
            elif member.islnk():
                path = posixpath.normpath(member.linkname)
            else:
                break
        raise ManifestError(f"the archive {self._path} has no file {name[:200]!r}")

    def _layer(self, name: str, diff_id: Digest) -> Descriptor:
        """The descriptor of a layer: by its diff_id, unless it is compressed."""
        size = self._member(name).size
        with self.open(name) as file:
            start = file.read(4)
            for magic, suffix in _COMPRESSIONS.items():
                if start.startswith(magic):
                    file.seek(0)
                    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
                    return Descriptor(_LAYER + suffix, Digest("sha256", digest), size)
        return Descriptor(_LAYER, diff_id, size)


def _is_meant(reference: Reference, entry: _Entry) -> bool:
    wanted = _normal(reference.member, reference.tag)
    return any(
        name.tag == wanted.tag and (not reference.member or name.repository == wanted.repository)
        for name in entry.names
    )


def _normal(repository: str, tag: str) -> _Name:
    """A name as Docker completes it: ``app`` is ``docker.io/library/app``."""
    try:
        reference = Reference.parse(f"{repository}:{tag}", default_registry="docker.io")
    except InvalidReference:
        return _Name(repository, tag)
    return _Name(f"{reference.registry}/{reference.repository}", tag)


def _to_json(descriptor: Descriptor) -> dict[str, object]:
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
