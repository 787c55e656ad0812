"""All places that images come from as one: registries, layouts, archives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..oci.manifest import Descriptor, Index, Manifest
from ..oci.reference import DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_LAYOUT, Digest, Reference
from .image_source import ImageSource
from .local.docker_archive import DockerArchives
from .local.oci_layout import OciLayouts
from .local.tarball import opened_tarball


class AnySource:
    """Asks, for each reference, the source that its scheme names; `ImageSource` itself."""

    def __init__(self, registries: ImageSource) -> None:
        self._registries = registries
        self._local: dict[str, ImageSource] = {
            OCI_LAYOUT: OciLayouts(),
            OCI_ARCHIVE: OciLayouts(opened_tarball),
            DOCKER_ARCHIVE: DockerArchives(),
        }

    def _of(self, reference: Reference) -> ImageSource:
        return self._local[reference.scheme] if reference.is_local else self._registries

    def poll(self, reference: Reference) -> Digest:
        """See `ImageSource`."""
        return self._of(reference).poll(reference)

    def tags(self, reference: Reference) -> list[str]:
        """See `ImageSource`."""
        return self._of(reference).tags(reference)

    def manifest(self, reference: Reference, digest: Digest | None = None) -> Manifest | Index:
        """See `ImageSource`."""
        return self._of(reference).manifest(reference, digest)

    def blob_bytes(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """See `ImageSource`."""
        return self._of(reference).blob_bytes(reference, descriptor)

    def fetch_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        path: Path,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """See `ImageSource`."""
        return self._of(reference).fetch_blob(reference, descriptor, path, progress=progress)
