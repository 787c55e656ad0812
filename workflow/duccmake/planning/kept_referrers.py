"""Which artifacts that refer to an image are kept beside it, so that no registry is needed later.

They are bounded in size and number: whoever may push to a repository may leave any there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import DuccmakeError
from ..oci.artifact import Artifact, Attached
from ..oci.globs import any_of
from ..oci.manifest import OCI_MANIFEST, Descriptor
from .evidence import Evidence, cosign_tag
from .troubles import PASSING

_MOST = 64
_MOST_BYTES = 64 * 1024**2

_COSIGN_KINDS = ("sig", "att", "sbom")

_Entry = dict[str, Any]


@dataclass(slots=True)
class Kept:
    """Descriptors of ``manifests`` and sizes of all ``blobs``, by digest; what is ``lacking``."""

    manifests: dict[str, _Entry] = field(default_factory=dict)
    blobs: dict[str, int] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As `duccmake.repository.referrers` takes it; empty where nothing is kept."""
        if not self.manifests:
            return {}
        return {"manifests": list(self.manifests.values()), "blobs": list(self.blobs)}


def kept_referrers(evidence: Evidence) -> Kept:
    """What is kept of an image's referrers; raises only what a registry's failure does."""
    kept = Kept()
    for wanted, entry in _wished(evidence):
        try:
            _keep(kept, evidence, wanted, entry)
        except PASSING:
            raise
        except DuccmakeError as error:
            kept.lacking.append(f"{wanted} is not kept: {error.found}")
    if kept.manifests:
        for subject in evidence.subjects:
            found = Descriptor(subject.media_type, subject.digest, len(subject.raw))
            kept.manifests.setdefault(str(subject.digest), _entry(Attached(found)))
            kept.blobs[str(subject.digest)] = len(subject.raw)
    return kept


def _wished(evidence: Evidence) -> Iterator[tuple[str, _Entry | None]]:
    """Tags of cosign's, which tell their type only when they are read, and wished referrers."""
    wished = any_of(*evidence.settings.keep_referrers)
    for subject in [] if evidence.image.reference.is_local else evidence.subjects:
        for kind in _COSIGN_KINDS:
            yield cosign_tag(subject.digest, kind), None
        for found in evidence.referrers(subject.digest):
            if wished.fullmatch(found.descriptor.artifact_type):
                yield str(found.descriptor.digest), _entry(found)


def _keep(kept: Kept, evidence: Evidence, wanted: str, entry: _Entry | None) -> None:
    artifact = evidence.beside.artifact(wanted)
    if artifact is None or str(artifact.digest) in kept.manifests:
        return
    if entry is None:
        entry = _tagged(artifact)
        if not any_of(*evidence.settings.keep_referrers).fullmatch(entry["artifactType"]):
            return
    blobs = [blob.descriptor for blob in artifact.blobs]
    blobs += [artifact.config] if artifact.config else []
    sizes = {str(blob.digest): blob.size for blob in blobs}
    sizes[str(artifact.digest)] = len(artifact.raw)
    together = kept.blobs | sizes
    if len(kept.manifests) >= _MOST or sum(together.values()) > _MOST_BYTES:
        raise DuccmakeError(f"more than {_MOST} artifacts, or {_MOST_BYTES} bytes of them")
    for blob in blobs:
        evidence.beside.blob(blob, _MOST_BYTES)
    kept.manifests[str(artifact.digest)] = entry
    kept.blobs = together


def _tagged(artifact: Artifact) -> _Entry:
    """What is tagged goes by the type of its first blob, as its manifest says nothing of it."""
    kind = artifact.blobs[0].descriptor.media_type if artifact.blobs else ""
    media_type = artifact.media_type or OCI_MANIFEST
    found = Descriptor(media_type, artifact.digest, len(artifact.raw), artifact_type=kind)
    return _entry(Attached(found))


def _entry(found: Attached) -> _Entry:
    """A descriptor as an index has it."""
    descriptor = found.descriptor
    members = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
        "artifactType": descriptor.artifact_type,
        "annotations": dict(found.annotations),
    }
    return {name: value for name, value in members.items() if value or name == "size"}
