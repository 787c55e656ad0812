"""Archives of ``docker save``, ``podman save`` and skopeo as a source of images.

Such an archive has no manifest as registries have them: one is put together
from its ``manifest.json``, and is the same whenever the images are.  Layers are
plain tars mostly, so that a layer's digest is its diff_id, which its download
verifies; only compressed ones have to be read for their digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from ...errors import MANIFEST_UNKNOWN, ManifestError, NotFound, RegistryError
from ...oci.json_object import JsonObject, parse_json
from ...oci.manifest import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Manifest,
    parse_manifest,
)
from ...oci.reference import Digest, Reference
from .files import LocalImages, read_metadata
from .tarball import DOCKER_INDEX, FullName, Tarball, full_name, opened_tarball

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_COMPRESSIONS = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}


class DockerArchives(LocalImages):
    """The images in archives, with several in one told apart by their names."""

    def poll(self, reference: Reference) -> Digest:
        """The digest of the manifest that is put together."""
        return self.manifest(reference).digest

    def tags(self, reference: Reference) -> list[str]:
        """The tags of the reference's image in the archive, or of all without a name."""
        wanted = full_name(reference.member, "x") if reference.member else None
        with opened_tarball(reference) as tar:
            archive = _Archive(tar)
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
        with opened_tarball(reference) as tar:
            archive = _Archive(tar)
            found = archive.image(reference).manifest
        if digest not in (None, found.digest):
            raise RegistryError(
                f"{reference.path} was changed while it was read",
                image=reference.name,
                hint="run again; an archive is replaced best by renaming a new one",
            )
        return found

    @contextmanager
    def _opened_for(
        self, reference: Reference, descriptor: Descriptor
    ) -> Iterator[Callable[[], IO[bytes]]]:
        with opened_tarball(reference) as tar:
            archive = _Archive(tar)
            name = archive.image(reference).member(descriptor)
            yield lambda: archive.open(name)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image of ``manifest.json``: names of members, and the names it was saved by."""

    config: str
    layers: tuple[str, ...]
    names: tuple[FullName, ...]

    @classmethod
    def parse(cls, value: object) -> _Entry:
        members = JsonObject.of(value, f"an entry of the archive's {DOCKER_INDEX}")
        names = []
        for text in members.texts("RepoTags"):
            repository, _, tag = text.rpartition(":")
            names.append(full_name(repository, tag))
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
                f"the archive does not have {descriptor.digest} any more", hint="run again"
            ) from None


class _Archive:
    """An open archive, by its ``manifest.json``."""

    def __init__(self, tar: Tarball) -> None:
        self.open = tar.open
        self._tar = tar

    def entries(self) -> list[_Entry]:
        """The images of ``manifest.json``."""
        with self.open(DOCKER_INDEX) as file:
            entries = parse_json(read_metadata(file, DOCKER_INDEX), f"the archive's {DOCKER_INDEX}")
        if not isinstance(entries, list):
            raise ManifestError(f"the archive's {DOCKER_INDEX} is no list of images")
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

    def _choose(self, reference: Reference) -> _Entry:
        entries = self.entries()
        if reference.member or reference.tag:
            entries = [entry for entry in entries if _is_meant(reference, entry)]
        if len(entries) == 1:
            return entries[0]
        known = ", ".join(f"{n.repository}:{n.tag}" for e in self.entries() for n in e.names)
        missing = NotFound(
            f"{self._tar.path} has {len(entries)} such images; it has these names: "
            f"{known[:500] or 'none'}",
            hint="name one of them, as docker-archive:path:name:tag",
        )
        missing.code = MANIFEST_UNKNOWN
        raise missing

    def _layer(self, name: str, diff_id: Digest) -> Descriptor:
        """The descriptor of a layer: by its diff_id, unless it is compressed."""
        size = self._tar.size(name)
        with self.open(name) as file:
            start = file.read(4)
            for magic, suffix in _COMPRESSIONS.items():
                if start.startswith(magic):
                    file.seek(0)
                    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
                    return Descriptor(_LAYER + suffix, Digest("sha256", digest), size)
        return Descriptor(_LAYER, diff_id, size)


def _is_meant(reference: Reference, entry: _Entry) -> bool:
    wanted = full_name(reference.member, reference.tag)
    return any(
        name.tag == wanted.tag and (not reference.member or name.repository == wanted.repository)
        for name in entry.names
    )


def _to_json(descriptor: Descriptor) -> dict[str, object]:
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
