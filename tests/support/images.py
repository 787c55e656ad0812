"""Images for tests: layers with all that an archive may have, and places to put images to."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, Unpack
from urllib.parse import urljoin

import requests

from duccmake.demo import images
from duccmake.demo.images import HeaderFields, Image, Media, Name, text
from duccmake.demo.samples import moved_hello, sample_images
from duccmake.errors import RegistryError, RegistryUnavailable
from duccmake.layer.zstd import zstd
from duccmake.oci.reference import Digest

Compression = Literal["gzip", "zstd", "none"]


@dataclass(frozen=True)
class Layer(images.Layer):
    """A layer that may be compressed in any way."""

    compression: Compression = "gzip"

    def _compressed(self) -> bytes:
        if self.compression == "gzip":
            return super()._compressed()
        return zstd.compress(self.tar) if self.compression == "zstd" else self.tar

    def media_type(self, media: Media) -> str:
        gzip = super().media_type(media)
        if self.compression == "none":
            return gzip[: -len("+gzip")]
        return gzip.replace("gzip", self.compression)


class Fields(HeaderFields, total=False):
    """What any member of a layer may have.

    ``pax`` holds further extended header records; an ``mtime`` in it counts
    before the other and is exact to the nanosecond.
    """

    xattrs: Mapping[str, bytes]
    pax: Mapping[str, str]


class LayerBuilder(images.LayerBuilder):
    """Adds pipes, devices, and ``xattrs`` and ``pax`` records of all members (`Fields`)."""

    def fifo(self, path: Name, **fields: Unpack[Fields]) -> Self:
        """Add a named pipe."""
        return self._add(path, tarfile.FIFOTYPE, {"mode": 0o644, **fields})

    def device(
        self,
        path: Name,
        major: int,
        minor: int,
        *,
        kind: Literal["char", "block"] = "char",
        **fields: Unpack[Fields],
    ) -> Self:
        """Add a device node."""
        typeflag = tarfile.CHRTYPE if kind == "char" else tarfile.BLKTYPE
        self._add(path, typeflag, {"mode": 0o644, **fields})
        member, _ = self._members[-1]
        member.devmajor, member.devminor = major, minor
        return self

    def layer(self, compression: Compression = "gzip") -> Layer:
        """The layer as a value."""
        return Layer(self.tar(), compression)

    def blob(self, compression: Compression = "gzip") -> bytes:
        """The bytes that a registry would have."""
        return self.layer(compression).blob

    def _add(
        self,
        path: Name,
        typeflag: bytes,
        fields: Fields,
        target: Name = "",
        content: bytes = b"",
    ) -> Self:
        super()._add(path, typeflag, fields, target, content)
        xattrs = fields.get("xattrs", {})
        member, _ = self._members[-1]
        member.pax_headers = {
            **{f"SCHILY.xattr.{key}": text(value) for key, value in xattrs.items()},
            **fields.get("pax", {}),
        }
        return self


def push(image: Image, host: str, repository: str, tag: str) -> Digest:
    """Push an image over plain HTTP, only the blobs that are missing; returns its digest.

    ``host`` is ``name:port``.  Each blob goes up in one piece (distribution-spec,
    "POST then PUT").  Raises `RegistryError`, `RegistryUnavailable`.
    """
    repository_url = f"http://{host}/v2/{repository}"
    with requests.Session() as registry:
        registry.trust_env = False  # no proxy stands before a registry of our own
        for digest, content in image.blobs().items():
            _push_blob(registry, repository_url, digest, content)
        _request(
            registry,
            "PUT",
            f"{repository_url}/manifests/{tag}",
            data=image.manifest_bytes,
            headers={"Content-Type": image.media_type},
        )
    return image.digest


def _push_blob(
    registry: requests.Session, repository_url: str, digest: Digest, content: bytes
) -> None:
    known = _request(registry, "HEAD", f"{repository_url}/blobs/{digest}", accept=(200, 404))
    if known.status_code == 200:
        return
    started = _request(registry, "POST", f"{repository_url}/blobs/uploads/")
    _request(
        registry,
        "PUT",
        urljoin(started.url, started.headers["Location"]),
        params={"digest": str(digest)},
        data=content,
        headers={"Content-Type": "application/octet-stream"},
    )


def _request(
    registry: requests.Session,
    method: str,
    url: str,
    *,
    accept: tuple[int, ...] = (200, 201, 202),
    **arguments: Any,
) -> requests.Response:
    hint = "see whether the registry runs and takes pushes"
    try:
        response = registry.request(method, url, timeout=30, **arguments)
    except requests.RequestException as error:
        raise RegistryUnavailable(f"{method} {url}: {error}", step="push", hint=hint) from None
    if response.status_code not in accept:
        raise RegistryError(
            f"{method} {url} was answered with {response.status_code} {response.text[:200]!r}",
            step="push",
            hint=hint,
        )
    return response


def write_oci_layout(image: Image, directory: Path, tag: str) -> None:
    """Add an image to an OCI image layout (image-spec, image-layout.md), made if need be."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for digest, content in (image.blobs() | {image.digest: image.manifest_bytes}).items():
        (blobs / digest.hex).write_bytes(content)
    (directory / "oci-layout").write_bytes(b'{"imageLayoutVersion": "1.0.0"}')
    index = directory / "index.json"
    others = json.loads(index.read_bytes())["manifests"] if index.exists() else []
    annotations = {"org.opencontainers.image.ref.name": tag}
    entry = {
        "mediaType": image.media_type,
        "size": len(image.manifest_bytes),
        "digest": str(image.digest),
        "annotations": annotations,
    }
    others = [other for other in others if other["annotations"] != annotations]
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*others, entry]}))


def push_samples(host: str) -> dict[str, Digest]:
    """Push the sample images to a registry; returns their digests by name."""
    return {name: _push_named(image, host, name) for name, image in sample_images().items()}


def move_tag(host: str) -> Digest:
    """Push a new version of ``demo/hello:latest``; returns its digest."""
    return _push_named(moved_hello(), host, "demo/hello:latest")


def _push_named(image: Image, host: str, name: str) -> Digest:
    repository, _, tag = name.partition(":")
    return push(image, host, repository, tag)
