"""Manifests that are asked for once: those of one image, on several platforms."""

from __future__ import annotations

from ..errors import DuccmakeError
from ..oci.content_store import ContentStore
from ..oci.manifest import Descriptor, Index, Manifest, parse_manifest
from ..oci.reference import Digest, Reference
from .images import Manifests


class CachedManifests(Manifests):
    """Remembers polls, also failed ones, and keeps manifests in ``store``, for later runs.

    For one thread.
    """

    def __init__(self, images: Manifests, store: ContentStore) -> None:
        self._images = images
        self._store = store
        self._polls: dict[Reference, Digest | DuccmakeError] = {}
        self._tops: dict[Reference, Manifest | Index] = {}

    def polled(self, reference: Reference) -> Digest | None:
        """What a poll found, if there was one."""
        found = self._polls.get(reference)
        return found if isinstance(found, Digest) else None

    def poll(self, reference: Reference) -> Digest:
        """See `Manifests`."""
        if reference not in self._polls:
            try:
                self._polls[reference] = self._images.poll(reference)
            except DuccmakeError as error:
                self._polls[reference] = error
        found = self._polls[reference]
        if isinstance(found, DuccmakeError):
            raise found
        return found

    def manifest(self, reference: Reference, digest: Digest | None = None) -> Manifest | Index:
        """See `Manifests`."""
        if digest is None:
            if reference not in self._tops:
                self._tops[reference] = self._kept(self._images.manifest(reference))
            return self._tops[reference]
        raw = self._store.get(digest)
        if raw is not None:
            return parse_manifest(raw, algorithm=digest.algorithm)
        return self._kept(self._images.manifest(reference, digest))

    def blob_bytes(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """See `Manifests`."""
        raw = self._store.get(descriptor.digest)
        if raw is not None:
            # Another image may have brought it, with another descriptor.
            return descriptor.verify(raw)
        return self._images.blob_bytes(reference, descriptor)

    def _kept(self, found: Manifest | Index) -> Manifest | Index:
        self._store.put(found.digest, found.raw)
        return found
