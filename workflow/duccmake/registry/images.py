"""Where images come from, and which of an index's manifests is the one for a platform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import DuccmakeError, NoSuchPlatform, UnsupportedImage
from ..oci.manifest import Descriptor, ImageConfig, Index, Manifest
from ..oci.reference import Digest, Platform, Reference
from .damaged import Damaged
from .download import Download
from .http.retry import RetryPolicy

MAX_INDEX_DEPTH = 4
MAX_INDEX_ENTRIES = 32


class Manifests(ABC):
    """What has the manifests and configurations of images."""

    @abstractmethod
    def poll(self, reference: Reference) -> Digest:
        """The digest that the reference stands for now, as cheaply as can be."""

    @abstractmethod
    def manifest(self, reference: Reference, digest: Digest | None = None) -> Manifest | Index:
        """The manifest or index, verified, with its bytes as they came.

        ``digest`` asks for another one than the reference names, such as an
        index's entry.  Raises `DigestMismatch` and `ManifestError` (with
        `UnsupportedImage`) where the bytes are not right.
        """

    @abstractmethod
    def blob_bytes(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A small blob, verified: an image configuration.

        Raises `DigestMismatch`, or `ManifestError` where it is larger than a manifest may be.
        """


class Images(Manifests):
    """Where images come from: registries, or files that stand for one."""

    _policy: RetryPolicy
    _damaged: Damaged | None = None

    @abstractmethod
    def tags(self, reference: Reference) -> list[str]:
        """All tags of the repository."""

    def fetch_blob(self, reference: Reference, descriptor: Descriptor, path: Path) -> int:
        """Bring a blob to ``path``, verified; returns the bytes that were moved for it.

        It grows as ``<path>.part``, from which any later call goes on, and gets
        its name when size and digest are right.  Only one process or thread
        brings a blob to a path at a time; the others wait and find it there.
        Raises `DigestMismatch` where something else comes.
        """
        download = Download(descriptor, path, self._policy, self._damaged)
        return self._deliver(reference, download)

    @abstractmethod
    def _deliver(self, reference: Reference, download: Download) -> int:
        """Run the download from wherever the image's blobs are."""


def select_image(
    images: Manifests,
    reference: Reference,
    platform: Platform,
    *,
    digest: Digest | None = None,
) -> tuple[Digest, Manifest, ImageConfig]:
    """What the reference means for a platform: top digest, manifest, configuration.

    ``digest`` is what a poll found, if there was one.  Raises `NoSuchPlatform`
    where there is nothing for the platform, naming what there is, and `DigestMismatch`
    where an index has another size for a manifest than that has.
    """
    top = images.manifest(reference, digest)
    if isinstance(top, Manifest):
        config = _config(images, reference, top)
        if platform.matches(config.platform):
            return top.digest, top, config
        raise _no_platform(platform, [str(config.platform)]).within(image=reference.name)
    seen: list[str] = []
    for found, named in _candidates(images, reference, top, platform, seen, MAX_INDEX_DEPTH):
        config = _config(images, reference, found)
        # An index's word counts more than the configuration's, which often lacks the variant.
        if named or platform.matches(config.platform):
            return top.digest, found, config
        seen.append(str(config.platform))
    raise _no_platform(platform, seen).within(image=reference.name)


def _candidates(
    images: Manifests,
    reference: Reference,
    index: Index,
    platform: Platform,
    seen: list[str],
    depth: int,
) -> Iterator[tuple[Manifest, bool]]:
    """Manifests that may serve, best first, and whether an index names their platform."""
    seen += map(str, index.platforms)
    seen += index.special
    for entry in index.candidates(platform)[:MAX_INDEX_ENTRIES]:
        try:
            found = images.manifest(reference, entry.digest)
            entry.verify(found.raw)
        except UnsupportedImage:
            if entry.platform:
                raise
            continue
        except DuccmakeError as error:
            raise error.within(image=reference.name) from None
        if isinstance(found, Manifest):
            yield found, entry.platform is not None
        elif depth > 1:
            yield from _candidates(images, reference, found, platform, seen, depth - 1)


def _config(images: Manifests, reference: Reference, manifest: Manifest) -> ImageConfig:
    raw = images.blob_bytes(reference, manifest.config)
    try:
        return ImageConfig.parse(raw, layers=len(manifest.layers))
    except DuccmakeError as error:
        raise error.within(image=reference.name) from None


def _no_platform(wanted: Platform, there: Iterable[str]) -> NoSuchPlatform:
    names = ", ".join(sorted(set(there))) or "none"
    return NoSuchPlatform(
        f"there is no image for {wanted}, only for: {names}",
        hint="wish for one of these platforms, or remove the entry",
    )
