"""Images of several layers, made in memory: what `make demo` and tests convert.

`LayerBuilder` makes layers, odd ones too; an `Image` is their value.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform as machine
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypedDict, Unpack

from ..oci.manifest import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST
from ..oci.reference import Digest, Platform

MTIME = 1_700_000_000
"""When everything in a layer was last changed unless said otherwise, seconds since the epoch."""

Media = Literal["oci", "docker"]
Name = str | bytes


class HeaderFields(TypedDict, total=False):
    """What the header of any member may say."""

    mode: int
    uid: int
    gid: int
    mtime: float


class LayerBuilder:
    """Collects a layer's members, in the order of the calls and without any check.

    Names are written as they are given, bytes that are no UTF-8, ``..`` and
    leading slashes included.
    """

    def __init__(self) -> None:
        self._members: list[tuple[tarfile.TarInfo, bytes]] = []

    def file(self, path: Name, content: bytes | str = b"", **fields: Unpack[HeaderFields]) -> Self:
        """Add a regular file."""
        data = content.encode() if isinstance(content, str) else content
        return self._add(path, tarfile.REGTYPE, {"mode": 0o644, **fields}, content=data)

    def dir(self, path: Name, **fields: Unpack[HeaderFields]) -> Self:
        """Add a directory."""
        return self._add(path, tarfile.DIRTYPE, {"mode": 0o755, **fields})

    def symlink(self, path: Name, target: Name, **fields: Unpack[HeaderFields]) -> Self:
        """Add a symbolic link."""
        return self._add(path, tarfile.SYMTYPE, {"mode": 0o777, **fields}, target)

    def hardlink(self, path: Name, target: Name, **fields: Unpack[HeaderFields]) -> Self:
        """Add a further name of ``target``, which is a path from the root."""
        return self._add(path, tarfile.LNKTYPE, {"mode": 0o644, **fields}, target)

    def whiteout(self, path: Name) -> Self:
        """Hide ``path`` of the lower layers (image-spec, layer.md, "Whiteouts")."""
        parent, slash, name = text(path).rpartition("/")
        return self.file(f"{parent}{slash}.wh.{name}")

    def opaque(self, path: Name) -> Self:
        """Hide all that lower layers have in ``path`` (layer.md, "Opaque Whiteout")."""
        return self.file(f"{text(path)}/.wh..wh..opq")

    def tar(self) -> bytes:
        """The archive, in the POSIX (pax) format."""
        buffer = io.BytesIO()
        with tarfile.open(
            fileobj=buffer,
            mode="w",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            for member, content in self._members:
                archive.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    def layer(self) -> Layer:
        """The layer as a value."""
        return Layer(self.tar())

    def _add(
        self,
        path: Name,
        typeflag: bytes,
        fields: HeaderFields,
        target: Name = "",
        content: bytes = b"",
    ) -> Self:
        member = tarfile.TarInfo(text(path))
        member.type = typeflag
        member.linkname = text(target)
        member.mode = fields["mode"]
        member.uid = fields.get("uid", 0)
        member.gid = fields.get("gid", 0)
        member.mtime = fields.get("mtime", MTIME)
        member.size = len(content)
        self._members.append((member, content))
        return self


def text(name: Name) -> str:
    """A name as ``tarfile`` has it."""
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


_LAYER_TYPES: Mapping[Media, str] = {
    "oci": "application/vnd.oci.image.layer.v1.tar+gzip",
    "docker": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its archive, and its ``blob``, which is the archive as a registry has it."""

    tar: bytes = field(repr=False)
    blob: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blob", self._compressed())

    def _compressed(self) -> bytes:
        return gzip.compress(self.tar, compresslevel=6, mtime=0)

    def media_type(self, media: Media) -> str:
        """The media type of the blob."""
        return _LAYER_TYPES[media]

    @property
    def digest(self) -> Digest:
        """The digest of the blob."""
        return _digest(self.blob)

    @property
    def diff_id(self) -> Digest:
        """The digest of the archive."""
        return _digest(self.tar)


def _digest(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).hexdigest())


def host_platform() -> Platform:
    """The platform of this machine, of which the sample images' programs are."""
    architectures = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
    name = machine.machine().lower()
    return Platform("linux", architectures.get(name, name))


_IMAGE_TYPES: Mapping[Media, tuple[str, str]] = {
    "oci": (OCI_MANIFEST, OCI_CONFIG),
    "docker": (DOCKER_MANIFEST, DOCKER_CONFIG),
}


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one platform: layers, lowest first, and what it runs.

    ``config`` holds the members of the configuration's ``config`` (Env, Cmd,
    Labels, ...; image-spec, config.md), ``media`` says in whose format the
    manifest is written.
    """

    layers: tuple[Layer, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    media: Media = "oci"
    platform: Platform = field(default_factory=host_platform)

    @property
    def media_type(self) -> str:
        """The manifest's media type."""
        return _IMAGE_TYPES[self.media][0]

    @property
    def config_bytes(self) -> bytes:
        """The configuration blob."""
        created = "2024-01-01T00:00:00Z"
        return _json(
            {
                "created": created,
                "architecture": self.platform.architecture,
                "os": self.platform.os,
                **({"variant": self.platform.variant} if self.platform.variant else {}),
                "config": dict(self.config),
                "rootfs": {
                    "type": "layers",
                    "diff_ids": [str(layer.diff_id) for layer in self.layers],
                },
                "history": [{"created": created} for _ in self.layers],
            }
        )

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest."""
        media_type, config_type = _IMAGE_TYPES[self.media]
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": _descriptor(config_type, self.config_bytes),
                "layers": [
                    _descriptor(layer.media_type(self.media), layer.blob) for layer in self.layers
                ],
            }
        )

    @property
    def digest(self) -> Digest:
        """The digest of the manifest."""
        return _digest(self.manifest_bytes)

    def blobs(self) -> dict[Digest, bytes]:
        """The layers' blobs and the configuration: all that the manifest names."""
        return {layer.digest: layer.blob for layer in self.layers} | {
            _digest(self.config_bytes): self.config_bytes
        }


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(content), "digest": str(_digest(content))}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
