"""Which artifacts that refer to an image are kept beside it, so that no registry is needed later.

They are bounded in size and number: whoever may push to a repository may leave any there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import DuccmakeError
from ..oci.artifact import UNSAID_TYPES, Artifact, Attached
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


def _wished(evidence: Evidence) -> Iterator[tuple[str, _Entry]]:
    """What may be kept: an empty entry, or type, is what only the artifact itself tells."""
    for subject in [] if evidence.image.reference.is_local else evidence.subjects:
        for kind in _COSIGN_KINDS:
            yield cosign_tag(subject.digest, kind), {}
        for found in evidence.referrers(subject.digest):
            entry = _entry(found)
            if found.descriptor.artifact_type in UNSAID_TYPES or _is_wished(evidence, entry):
                yield str(found.descriptor.digest), entry


def _is_wished(evidence: Evidence, entry: _Entry) -> bool:
    kind = entry.get("artifactType", "")
    return any_of(*evidence.settings.keep_referrers).fullmatch(kind) is not None


def _keep(kept: Kept, evidence: Evidence, wanted: str, entry: _Entry) -> None:
    if len(kept.manifests) >= _MOST:
        raise DuccmakeError(f"there are {_MOST} others")
    artifact = evidence.beside.artifact(wanted)
    if artifact is None or str(artifact.digest) in kept.manifests:
        return
    if entry.get("artifactType", "") in UNSAID_TYPES:
        entry = _entry(Attached(_described(artifact))) | entry | {"artifactType": _type(artifact)}
    if not _is_wished(evidence, entry):
        return
    blobs = [blob.descriptor for blob in artifact.blobs]
    blobs += [artifact.config] if artifact.config else []
    sizes = {str(blob.digest): blob.size for blob in blobs}
    sizes[str(artifact.digest)] = len(artifact.raw)
    together = kept.blobs | sizes
    if sum(together.values()) > _MOST_BYTES:
        raise DuccmakeError(f"with the others it has more than {_MOST_BYTES} bytes")
    for blob in blobs:
        evidence.beside.blob(blob, _MOST_BYTES)
    kept.manifests[str(artifact.digest)] = entry
    kept.blobs = together


def _described(artifact: Artifact) -> Descriptor:
    return Descriptor(artifact.media_type or OCI_MANIFEST, artifact.digest, len(artifact.raw))


def _type(artifact: Artifact) -> str:
    """What its manifest says, or else what its first blob is of: cosign's tags say no more."""
    if artifact.artifact_type not in UNSAID_TYPES or not artifact.blobs:
        return artifact.artifact_type
    return artifact.blobs[0].descriptor.media_type


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
