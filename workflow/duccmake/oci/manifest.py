"""Manifests, indexes and image configurations: parsed from bytes, and refused when wrong.

Formats: OCI image-spec 1.1 (manifest.md, image-index.md, config.md, descriptor.md)
and Docker's image manifest version 2, schema 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..errors import DigestMismatch, InvalidReference, ManifestError, UnsupportedImage
from .json_object import JsonObject
from .member_types import check_config, check_manifest
from .reference import Digest, Platform

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_UNSAID_TYPES = frozenset({"", "application/octet-stream", "application/json", "text/html"})
"""What old clients and registries wrote for a configuration's type; Docker takes them for one."""

ACCEPT = ", ".join([OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST])
"""The Accept header of every manifest request."""

LAYER_TYPES = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zst",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
FOREIGN_LAYER_TYPES = frozenset(
    {
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)


_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386"}
_UNKNOWN = Platform("unknown", "unknown")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What some content is: media type, digest, size in bytes (image-spec, descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    platform: Platform | None = None
    artifact_type: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: object) -> Descriptor:
        """Read a descriptor from parsed JSON; `ManifestError` where a member is wrong."""
        members = JsonObject.of(value, "a descriptor")
        try:
            digest = Digest.parse(members.get("digest"))
        except InvalidReference as error:
            raise ManifestError(f"a descriptor's digest is wrong: {error.found}") from None
        members = replace(members, what=f"the descriptor of {digest}")
        platform = members.nested("platform")
        return cls(
            media_type=members.text("mediaType"),
            digest=digest,
            size=members.size("size"),
            urls=members.texts("urls"),
            platform=_platform(platform),
            artifact_type=members.text("artifactType"),
            os_features=platform.texts("os.features"),
        )

    def verify(self, content: bytes) -> bytes:
        """Return ``content`` if it is what the descriptor names, else raise `DigestMismatch`."""
        found = hashlib.new(self.digest.algorithm, content).hexdigest()
        if found != self.digest.hex:
            raise DigestMismatch(
                f"content of {len(content)} bytes with {self.digest.algorithm}:{found} where "
                f"{self.size} bytes with {self.digest} were promised",
                hint="the registry or a proxy serves damaged content: ask its operator",
            )
        if len(content) != self.size:
            raise DigestMismatch(
                f"{self.digest} has {len(content)} bytes where its descriptor has {self.size}",
                hint="ask the image's author to push what names it again",
            )
        return content


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform: its configuration and its layers, lowest first.

    ``raw`` holds the registry's bytes, which alone have the digest ``digest``.
    """

    media_type: str
    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests (or further indexes), by platform: an OCI index or a Docker list."""

    media_type: str
    digest: Digest
    manifests: tuple[Descriptor, ...]
    raw: bytes = field(repr=False)

    def candidates(self, platform: Platform) -> tuple[Descriptor, ...]:
        """Entries that may serve ``platform``, best first: matches, then nested indexes.

        The first match counts (image-spec, image-index.md); entries for
        ``unknown/unknown`` are attestations and never match a wish, and those that need
        features of the operating system match none that has no such.
        """
        entries = [entry for entry in self.manifests if not entry.os_features]
        nested = [
            entry
            for entry in entries
            if entry.media_type in INDEX_TYPES
            and (entry.platform is None or platform.matches(entry.platform))
        ]
        images = [entry for entry in entries if entry.media_type not in INDEX_TYPES]
        matching = [
            entry
            for entry in images
            if entry.platform
            and entry.platform.os != _UNKNOWN.os
            and platform.matches(entry.platform)
        ]
        unnamed = [entry for entry in images if entry.platform is None and not entry.artifact_type]
        return tuple(matching + nested + unnamed)

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms that the index names itself, attestations left out."""
        return tuple(
            entry.platform
            for entry in self.manifests
            if entry.platform and entry.platform.os != _UNKNOWN.os and not entry.os_features
        )

    @property
    def special(self) -> tuple[str, ...]:
        """Its platforms that need features of the operating system, in words."""
        return tuple(
            f"{entry.platform} with {' and '.join(entry.os_features)}"
            for entry in self.manifests
            if entry.platform and entry.os_features
        )


def parse_manifest(
    raw: bytes, content_type: str = "", *, algorithm: str = "sha256"
) -> Manifest | Index:
    """Parse the bytes of a manifest or an index.

    The body's own ``mediaType`` decides, then the Content-Type, then the shape.
    Raises `ManifestError` for what the specification forbids (among others a
    body that is both a manifest and an index, CVE-2021-41190) and
    `UnsupportedImage` for schema 1, artifacts and unknown media types.
    """
    members = JsonObject.parse(raw, "the manifest")
    header_type = content_type.partition(";")[0].strip().lower()
    check_schema(members)
    has_layers = members.has("layers") | members.has("config")
    has_manifests = members.has("manifests")
    if has_layers and has_manifests:
        raise ManifestError("the manifest has both 'layers' and 'manifests' (CVE-2021-41190)")
    declared = members.text("mediaType")
    known_header = header_type in MANIFEST_TYPES | INDEX_TYPES
    if declared and known_header and declared != header_type:
        raise ManifestError(
            f"the manifest calls itself {declared!r} but was sent as {header_type!r}"
        )
    media_type = declared or (header_type if known_header else "")
    if not media_type:
        media_type = OCI_INDEX if has_manifests else OCI_MANIFEST
    digest = Digest(algorithm, hashlib.new(algorithm, raw).hexdigest())
    if media_type in INDEX_TYPES:
        if not has_manifests:
            raise ManifestError(f"the index {digest} has no 'manifests'")
        entries = tuple(Descriptor.parse(entry) for entry in members.array("manifests"))
        return Index(media_type, digest, entries, raw)
    if media_type not in MANIFEST_TYPES:
        raise UnsupportedImage(
            f"{media_type!r} is not a container image", hint="remove the entry from the wish list"
        )
    if not has_layers:
        raise ManifestError(f"the manifest {digest} has no 'layers'")
    return _image_manifest(members, media_type, digest, raw)


def check_schema(members: JsonObject) -> None:
    """Raise `ManifestError` for a manifest or an index whose ``schemaVersion`` is not 2.

    That is a number (manifest.md, image-index.md), and to Go's decoder neither 2.0 nor
    "2" is it.  Where it is left out, podman and containerd read on, for nothing depends
    on it.  1 is that of Docker's first manifests, which have ``fsLayers``.
    """
    version = members.get("schemaVersion")
    if members.has("fsLayers") or (type(version) is int and version == 1):
        raise UnsupportedImage(
            "the image has a manifest of Docker's schema 1, which is obsolete",
            hint="push the image again with a current client",
        )
    if version is not None and (type(version) is not int or version != 2):
        raise ManifestError(
            f"{members.what} has the schemaVersion {version!r} in place of the number 2",
            hint="ask the image's author to build it with a current tool",
        )


def _image_manifest(members: JsonObject, media_type: str, digest: Digest, raw: bytes) -> Manifest:
    config = Descriptor.parse(members.get("config"))
    artifact = members.text("artifactType")
    if config.media_type not in (CONFIG_TYPES if artifact else CONFIG_TYPES | _UNSAID_TYPES):
        raise UnsupportedImage(
            f"an artifact of type {artifact or config.media_type!r} is not a container image",
            hint="remove the entry from the wish list",
        )
    layers = tuple(Descriptor.parse(layer) for layer in members.array("layers"))
    for layer in layers:
        if layer.media_type not in LAYER_TYPES | FOREIGN_LAYER_TYPES:
            raise UnsupportedImage(
                f"the layer {layer.digest} has the unknown media type {layer.media_type!r}"
            )
    check_manifest(members)
    return Manifest(media_type, digest, config, layers, raw)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image runs and what its layers unpack to (image-spec, config.md)."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    raw: bytes = field(default=b"", repr=False)

    @classmethod
    def parse(cls, raw: bytes, *, layers: int | None = None) -> ImageConfig:
        """Parse a configuration blob; ``layers`` is how many diff_ids the manifest asks for.

        Raises `ManifestError`, and `UnsupportedImage` for a rootfs that is not made of
        layers (config.md, "rootfs").
        """
        members = JsonObject.parse(raw, "the image configuration")
        rootfs = JsonObject.of(members.get("rootfs"), "the configuration's 'rootfs'")
        # Where builders leave the type out, all readers take it for the only one there is.
        if rootfs.get("type") not in (None, "layers"):
            raise UnsupportedImage(
                f"the configuration has a rootfs of the type {rootfs.get('type')!r}, "
                "and only 'layers' can be unpacked",
                hint="ask the image's author to build it with a current tool",
            )
        try:
            diff_ids = tuple(map(Digest.parse, rootfs.array("diff_ids")))
        except InvalidReference as error:
            raise ManifestError(f"a diff_id is wrong: {error.found}") from None
        if layers is not None and len(diff_ids) != layers:
            raise ManifestError(
                f"the configuration has {len(diff_ids)} diff_ids for {layers} layers"
            )
        runtime = members.nested("config")
        found = cls(
            platform=_own_platform(members),
            diff_ids=diff_ids,
            env=runtime.texts("Env"),
            entrypoint=runtime.texts("Entrypoint"),
            cmd=runtime.texts("Cmd"),
            working_dir=runtime.text("WorkingDir"),
            user=runtime.text("User"),
            labels=runtime.nested("Labels").all_texts(),
            created=members.text("created"),
            raw=raw,
        )
        check_config(members)
        return found


def _platform(members: JsonObject) -> Platform | None:
    """The platform of an index entry; `_UNKNOWN` for names that mean nothing, None for none."""
    found = _any_platform(members)
    return found if found.os and found.architecture else None


def _own_platform(members: JsonObject) -> Platform:
    """The platform of a configuration, with empty names where it has none."""
    found = _any_platform(members)
    if found == _UNKNOWN:
        raise ManifestError("the configuration names no architecture or operating system")
    return found


def _any_platform(members: JsonObject) -> Platform:
    """What is there of a platform; `_UNKNOWN` for names that mean nothing.

    Architectures as ``uname -m`` and Debian call them stand for Go's names, as
    containerd reads them.
    """
    names = (members.text(name).lower() for name in ("os", "architecture", "variant"))
    os, architecture, variant = names
    architecture = _ARCHITECTURES.get(architecture, architecture)
    try:
        Platform.parse("/".join((os or "x", architecture or "x", variant or "x")))
    except InvalidReference:
        return _UNKNOWN
    return Platform(os, architecture, variant)
