"""What is attached to images: artifacts, whose manifests name them as their subject.

Formats: OCI image-spec 1.1 (manifest.md, "Guidelines for Artifact Usage") and
distribution-spec 1.1 ("Listing Referrers").
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from .json_object import JsonObject
from .manifest import Descriptor
from .reference import Digest

UNSAID_TYPES = frozenset(
    {"", "application/vnd.oci.empty.v1+json", "application/vnd.oci.image.config.v1+json"}
)
"""What an artifact's type is called where its manifest alone tells it: cosign 3 lists its bundles
so, by the tag that stands in for a registry's list."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A descriptor with its annotations."""

    descriptor: Descriptor
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: object) -> Attached:
        """Read one; `ManifestError` where a member is wrong."""
        annotations = JsonObject.of(value, "a descriptor").nested("annotations").all_texts()
        return cls(Descriptor.parse(value), annotations)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest of anything: its type, its configuration and blobs, or what it lists."""

    media_type: str
    digest: Digest
    artifact_type: str
    config: Descriptor | None
    blobs: tuple[Attached, ...]
    manifests: tuple[Attached, ...]
    raw: bytes = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes) -> Artifact:
        """Read a manifest or an index; `ManifestError` where it is none."""
        members = JsonObject.parse(raw, "the manifest")
        config = members.nested("config")
        return cls(
            members.text("mediaType"),
            Digest("sha256", hashlib.sha256(raw).hexdigest()),
            members.text("artifactType") or config.text("mediaType"),
            Descriptor.parse(config.members) if config.members else None,
            tuple(map(Attached.parse, members.array("layers"))),
            tuple(map(Attached.parse, members.array("manifests"))),
            raw,
        )
