"""Thin images: of the image's configuration, and a list of where CernVM-FS has its layers.

CernVM-FS' graph driver for Docker finds ``thin.json`` in the only layer of such an
image and mounts the layers that it names.  Everything here is a function of the
source: the same image always makes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from ..errors import DuccmakeError, InvalidReference
from ..oci.content_store import ContentStore
from ..oci.manifest import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    parse_manifest,
)
from ..oci.reference import Digest, Platform, Reference
from ..recipe.model import output_reference
from .model import PlannedImage, PlannedThin

THIN_FORMAT = 1
"""Version of what is made here; raising it has every thin image pushed again."""

VERSION = "1.0"
"""The version of ``thin.json``, and the oldest that a reader has to know."""

OCI_SUFFIX = "-oci"
"""What the tag of the OCI form has more than that of Docker's."""

BASE_DIGEST = "org.opencontainers.image.base.digest"
BASE_NAME = "org.opencontainers.image.base.name"

_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_STORED_BYTES = 65535


@dataclass(frozen=True, slots=True)
class Base:
    """An image of which a thin one is made: its name, platform, manifest and configuration."""

    reference: Reference
    platform: Platform
    manifest: Manifest
    config: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes, and what they are."""

    descriptor: Descriptor
    content: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """A thin image in one form: what is pushed first, and what gets the tag ``tag``.

    ``manifests`` are those of the platforms of a list; they go by their digests.
    """

    tag: str
    top: Content
    manifests: tuple[Content, ...]
    blobs: tuple[Content, ...]


def target_of(output_format: str, reference: Reference) -> Reference:
    """Where the thin image of ``reference`` is pushed to: a registry's repository and tag.

    An image that is wished for by its digest alone has that in the place of a tag,
    as ``sha256-…``.  Raises `InvalidReference` where the format makes no such name.
    """
    named = reference
    if not reference.tag:
        tag = "latest" if reference.digest is None else str(reference.digest).replace(":", "-")
        named = replace(reference, tag=tag)
    text = output_reference(output_format, named)
    try:
        target = Reference.parse(text)
    except InvalidReference as error:
        raise InvalidReference(
            f"output_format makes {text!r} of it, which is no name for a thin image: "
            f"{error.found.removeprefix(f'{text!r}: ')}",
            hint="name a registry and a repository in output_format, and end it with :$(tag)",
        ) from None
    if target.is_local or target.is_glob or not target.tag:
        raise InvalidReference(
            f"output_format makes {text!r} of it, which has no tag in a registry",
            hint="end output_format with :$(tag)",
        )
    return replace(target, digest=None)


def docker_form(bases: Sequence[Base], repository: str, tag: str, *, several: bool) -> Form:
    """The thin image of one platform, or with ``several`` a list of them, as Docker has it."""
    images = [_image(base, repository, _DOCKER) for base in bases]
    return _form(images, bases, tag, several, _DOCKER)


def oci_form(
    bases: Sequence[Base], repository: str, tag: str, *, several: bool, subject: bool
) -> Form:
    """The thin image as OCI has it, with annotations that name the source.

    ``subject`` makes it a referrer of the source's manifest (image-spec, manifest.md).
    """
    images = [_image(base, repository, _OCI, subject=subject) for base in bases]
    return _form(images, bases, f"{tag}{OCI_SUFFIX}", several, _OCI)


# --- how it is made -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Types:
    manifest: str
    config: str
    layer: str
    index: str


_DOCKER = _Types(DOCKER_MANIFEST, DOCKER_CONFIG, _DOCKER_LAYER, DOCKER_LIST)
_OCI = _Types(OCI_MANIFEST, OCI_CONFIG, _OCI_LAYER, OCI_INDEX)


@dataclass(frozen=True, slots=True)
class _Image:
    manifest: Content
    blobs: tuple[Content, ...]


def _image(base: Base, repository: str, types: _Types, *, subject: bool = False) -> _Image:
    archive = layer_archive(thin_json(base, repository))
    layer = _content(types.layer, gzip_stored(archive))
    config = _content(types.config, _config(base, archive))
    members: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": types.manifest,
        "config": _json_of(config.descriptor),
        "layers": [_json_of(layer.descriptor)],
    }
    if types is _OCI:
        members["annotations"] = {
            BASE_DIGEST: str(base.manifest.digest),
            BASE_NAME: base.reference.name,
        }
    if subject:
        manifest = base.manifest
        of = Descriptor(manifest.media_type, manifest.digest, len(manifest.raw))
        members["subject"] = _json_of(of)
    return _Image(_content(types.manifest, _dump(members)), (layer, config))


def _form(
    images: Sequence[_Image], bases: Sequence[Base], tag: str, several: bool, types: _Types
) -> Form:
    blobs = tuple({blob.descriptor: blob for image in images for blob in image.blobs}.values())
    if not several:
        [image] = images
        return Form(tag, image.manifest, (), blobs)
    members: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": types.index,
        "manifests": [
            {**_json_of(image.manifest.descriptor), "platform": _platform(base)}
            for image, base in zip(images, bases, strict=True)
        ],
    }
    if types is _OCI:
        members["annotations"] = {BASE_NAME: bases[0].reference.name}
    manifests = tuple(image.manifest for image in images)
    return Form(tag, _content(types.index, _dump(members)), manifests, blobs)


def thin_json(base: Base, repository: str) -> bytes:
    """``thin.json``: where CernVM-FS has the layers of an image, lowest first."""
    layers = [
        {
            "digest": layer.digest.hex,
            "url": f"cvmfs://{repository}/.layers/{layer.digest.prefix}/{layer.digest.hex}/layerfs",
        }
        for layer in base.manifest.layers
    ]
    members = {
        "version": VERSION,
        "min_version": VERSION,
        "origin": f"{base.reference}@{base.manifest.digest}"
        if base.reference.digest is None
        else str(base.reference),
        "layers": layers,
        "comment": "made by duccmake",
    }
    return json.dumps(members, indent=2).encode() + b"\n"


def layer_archive(content: bytes) -> bytes:
    """The archive with ``thin.json`` in it."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("thin.json")
        member.size = len(content)
        member.mode = 0o644
        tar.addfile(member, BytesIO(content))
    return buffer.getvalue()


def gzip_stored(content: bytes) -> bytes:
    """A gzip file that stores its content as it is (RFC 1951, 3.2.4).

    Compressors differ in what they make of the same bytes; this cannot.
    """
    pieces = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"]
    for at in range(0, max(1, len(content)), _STORED_BYTES):
        block = content[at : at + _STORED_BYTES]
        last = at + _STORED_BYTES >= len(content)
        pieces += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    pieces.append(struct.pack("<LL", zlib.crc32(content), len(content) & 0xFFFFFFFF))
    return b"".join(pieces)


def _config(base: Base, archive: bytes) -> bytes:
    """The image's configuration with the layer of the thin one."""
    known: Mapping[str, Any] = json.loads(base.config)
    runtime = dict(known.get("config") or {})
    environment = [text for text in runtime.get("Env") or () if not text.startswith(_MARK)]
    runtime["Env"] = [*environment, f"{_MARK}true"]
    parts = ("architecture", "os", "variant", "os.version", "os.features")
    named = {"architecture": base.platform.architecture, "os": base.platform.os}
    created = known.get("created") or "1970-01-01T00:00:00Z"
    diff_id = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    return _dump(
        {
            "created": created,
            **{key: value for key in parts if (value := known.get(key) or named.get(key))},
            "config": runtime,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": f"duccmake: {base.reference.name}"}],
        }
    )


_MARK = "CVMFS_IMAGE="


def _platform(base: Base) -> dict[str, str]:
    """The platform of a list's entry; configurations often lack the variant."""
    known: Mapping[str, Any] = json.loads(base.config)
    variant = base.platform.variant or known.get("variant") or ""
    found = {"architecture": base.platform.architecture, "os": base.platform.os}
    return {**found, "variant": variant} if variant else found


def _content(media_type: str, content: bytes) -> Content:
    digest = Digest("sha256", hashlib.sha256(content).hexdigest())
    return Content(Descriptor(media_type, digest, len(content)), content)


def _json_of(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }


def _dump(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def bases_of(images: Iterable[PlannedImage], store: ContentStore) -> list[Base]:
    """What thin images are made of; `DuccmakeError` where it is not kept any more."""
    return [_base(image, store) for image in images]


def _base(image: PlannedImage, store: ContentStore) -> Base:
    raw, config = store.get(image.manifest), store.get(image.config)
    if raw is None or config is None:
        raise DuccmakeError(
            "what was kept of its manifest is not there any more",
            image=image.title,
            step="thin image",
            hint="run again: it is fetched anew",
        )
    manifest = parse_manifest(raw, algorithm=image.manifest.algorithm)
    assert isinstance(manifest, Manifest)
    return Base(image.reference, image.platform, manifest, config)


def docker_of(bases: Sequence[Base], thin: PlannedThin) -> Form:
    """The thin image as Docker has it."""
    tag = Reference.parse(thin.target).tag
    return docker_form(bases, thin.repository, tag, several=thin.several)


def oci_of(bases: Sequence[Base], thin: PlannedThin, *, subject: bool) -> Form:
    """The thin image as OCI has it."""
    tag = Reference.parse(thin.target).tag
    return oci_form(bases, thin.repository, tag, several=thin.several, subject=subject)
