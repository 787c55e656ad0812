"""An image source that is asked once for each thing: one image, on several platforms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import DuccmakeError
from ..oci.content_store import ContentStore
from ..oci.manifest import Descriptor, Index, Manifest, parse_manifest
from ..oci.reference import Digest, Reference
from .image_source import ImageSource


class CachedSource:
    """Remembers polls, also failed ones, and keeps manifests in ``store``, for later runs.

    For one thread.
    """

    def __init__(self, source: ImageSource, store: ContentStore) -> None:
        self._source = source
        self._store = store
        self._polls: dict[Reference, Digest | DuccmakeError] = {}
        self._tops: dict[Reference, Manifest | Index] = {}

    def polled(self, reference: Reference) -> Digest | None:
        """What a poll found, if there was one."""
        found = self._polls.get(reference)
        return found if isinstance(found, Digest) else None

    def poll(self, reference: Reference) -> Digest:
        """See `ImageSource`."""
        if reference not in self._polls:
            try:
                self._polls[reference] = self._source.poll(reference)
            except DuccmakeError as error:
                self._polls[reference] = error
        found = self._polls[reference]
        if isinstance(found, DuccmakeError):
            raise found
        return found

    def tags(self, reference: Reference) -> list[str]:
        """See `ImageSource`."""
        return self._source.tags(reference)

    def manifest(self, reference: Reference, digest: Digest | None = None) -> Manifest | Index:
        """See `ImageSource`."""
        if digest is None:
            if reference not in self._tops:
                self._tops[reference] = self._kept(self._source.manifest(reference))
            return self._tops[reference]
        raw = self._store.get(digest)
        if raw is not None:
            return parse_manifest(raw, algorithm=digest.algorithm)
        return self._kept(self._source.manifest(reference, digest))

    def blob_bytes(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """See `ImageSource`."""
        raw = self._store.get(descriptor.digest)
        if raw is not None:
            # Another image may have brought it, with another descriptor.
            return descriptor.verify(raw)
        return self._source.blob_bytes(reference, descriptor)

    def fetch_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        path: Path,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """See `ImageSource`."""
        return self._source.fetch_blob(reference, descriptor, path, progress=progress)

    def _kept(self, found: Manifest | Index) -> Manifest | Index:
        self._store.put(found.digest, found.raw)
        return found
