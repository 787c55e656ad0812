"""The signatures that are beside an image at its registry, none of them believed yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import NoReturn

from ..config.settings import SignatureSettings
from ..errors import DuccmakeError
from ..oci.artifact import UNSAID_TYPES, Artifact, Attached
from ..oci.content_store import ContentStore
from ..oci.manifest import INDEX_TYPES, Index, Manifest
from ..oci.reference import Digest
from ..registry.attachments import Attachments
from ..registry.cached import CachedManifests
from ..registry.client import Client
from ..registry.images import MAX_INDEX_DEPTH, Manifests
from ..registry.places import Places
from ..signatures.docker_name import DockerName, scopes
from ..signatures.reading import NotSatisfied
from ..signatures.sigstore import (
    BUNDLE_PREFIX,
    COSIGN_ARTIFACT,
    SIMPLE_SIGNING,
    SigstoreSignature,
    of_annotations,
    of_bundle,
)
from ..signatures.verdict import Found, Signed
from .model import PlannedImage
from .troubles import PASSING

_MOST = 64
_MOST_LISTED = 256
_LARGEST = 4 * 1024**2
"""Whoever may push to a repository may leave any number of signatures of any size there."""

_MAY_SIGN = UNSAID_TYPES | {COSIGN_ARTIFACT}

Subject = Manifest | Index


@dataclass(frozen=True)
class Evidence:
    """What is beside one image; what is fetched for it is kept in ``store``.

    Raises what a registry's failure does that may pass; any other makes a signature one that
    does not count.
    """

    image: PlannedImage
    client: Client
    store: ContentStore
    settings: SignatureSettings
    _listed: dict[Digest, tuple[Attached, ...]] = field(default_factory=dict)

    @cached_property
    def subjects(self) -> list[Subject]:
        """What stands for the image and may be signed: its manifest, and the index it is from.

        An index counts only if its own bytes lead to the manifest.
        """
        image = self.image
        manifests = CachedManifests(Places(self.client).of(image.reference), self.store)
        found: list[Subject] = [manifests.manifest(image.reference, image.manifest)]
        if image.top not in (None, image.manifest):
            top = manifests.manifest(image.reference, image.top)
            if isinstance(top, Index) and self._leads(top, manifests, MAX_INDEX_DEPTH):
                found.append(top)
        return found

    def _leads(self, index: Index, manifests: Manifests, depth: int) -> bool:
        if any(entry.digest == self.image.manifest for entry in index.manifests):
            return True
        nested = [entry for entry in index.manifests if entry.media_type in INDEX_TYPES]
        for entry in nested if depth > 1 else ():
            below = manifests.manifest(self.image.reference, entry.digest)
            if isinstance(below, Index) and self._leads(below, manifests, depth - 1):
                return True
        return False

    @cached_property
    def beside(self) -> Attachments:
        """What the registry has beside the image."""
        return self.client.beside(self.image.reference, self.store)

    @cached_property
    def sigstore(self) -> list[Signed]:
        """The image with the signatures that cosign and its like have attached to it."""
        return self._signed(self._attached)

    @cached_property
    def lookaside(self) -> list[Signed]:
        """The image with its signatures of simple signing."""
        return self._signed(self._aside)

    def _signed(self, search: Callable[[Subject], Iterable[Found]]) -> list[Signed]:
        subjects = [] if self.image.reference.is_local else self.subjects
        return [
            Signed(subject.digest, subject.raw, tuple(islice(search(subject), _MOST)))
            for subject in subjects
        ]

    def _attached(self, subject: Subject) -> Iterator[Found]:
        tag = cosign_tag(subject.digest, "sig")
        yield from self._in_artifact(tag, tag, subject)
        for entry in self.referrers(subject.digest):
            kind = entry.descriptor.artifact_type
            if kind in _MAY_SIGN or kind.startswith(BUNDLE_PREFIX):
                digest = entry.descriptor.digest
                yield from self._in_artifact(f"referrer {digest.short}", str(digest), subject)

    def referrers(self, digest: Digest) -> tuple[Attached, ...]:
        """What the registry lists as referring to a manifest; nothing where it lists it wrong."""
        if digest not in self._listed:
            try:
                self._listed[digest] = self.beside.referrers(digest)[:_MOST_LISTED]
            except PASSING:
                raise
            except DuccmakeError:
                self._listed[digest] = ()
        return self._listed[digest]

    def _in_artifact(self, place: str, wanted: str, subject: Subject) -> Iterator[Found]:
        try:
            artifact = self.beside.artifact(wanted)
        except PASSING:
            raise
        except DuccmakeError as error:
            yield Found(place, partial(_failed, error))
            return
        for blob in _signatures(artifact):
            yield Found(place, self._reader(blob, subject))

    def _reader(self, blob: Attached, subject: Subject) -> Callable[[], SigstoreSignature]:
        try:
            content = self.beside.blob(blob.descriptor, _LARGEST)
        except PASSING:
            raise
        except DuccmakeError as error:
            return partial(_failed, error)
        if blob.descriptor.media_type == SIMPLE_SIGNING:
            return partial(of_annotations, content, blob.annotations)
        return partial(of_bundle, content, subject.raw)

    def _aside(self, subject: Subject) -> Iterator[Found]:
        """The messages of a lookaside storage (containers/image, signature-protocols.md)."""
        found = self.settings.lookaside
        wanted = (*scopes(DockerName.of(self.image.reference)), "")
        base = next((found[scope] for scope in wanted if scope in found), "").rstrip("/")
        digest = subject.digest
        stem = f"{base}/{self.image.reference.repository}@{digest.algorithm}={digest.hex}"
        for number in range(1, _MOST + 1) if base else ():
            message = self.beside.aside(f"{stem}/signature-{number}")
            if message is None:
                return
            yield Found(f"signature-{number} of {stem}", message=message)


def cosign_tag(digest: Digest, kind: str) -> str:
    """The tag by which cosign attaches something where no referrers are listed."""
    return f"{digest.algorithm}-{digest.hex}.{kind}"


def _signatures(artifact: Artifact | None) -> Iterator[Attached]:
    for blob in artifact.blobs if artifact else ():
        kind = blob.descriptor.media_type
        if kind == SIMPLE_SIGNING or kind.startswith(BUNDLE_PREFIX):
            yield blob


def _failed(error: DuccmakeError) -> NoReturn:
    raise NotSatisfied(error.found)
