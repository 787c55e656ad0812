"""Where images come from, and which of an index's manifests is the one for a platform."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from ..errors import DuccmakeError, UnsupportedImage
from ..oci.manifest import Descriptor, ImageConfig, Index, Manifest
from ..oci.reference import Digest, Platform, Reference

MAX_INDEX_DEPTH = 4
MAX_INDEX_ENTRIES = 32


class ImageSource(Protocol):
    """Registries, or files that stand for one: all that converting an image asks for."""

    def poll(self, reference: Reference) -> Digest:
        """The digest that the reference stands for now, as cheaply as can be."""
        ...

    def tags(self, reference: Reference) -> list[str]:
        """All tags of the repository."""
        ...

    def manifest(self, reference: Reference, digest: Digest | None = None) -> Manifest | Index:
        """The manifest or index, verified; ``digest`` asks for another one than the reference."""
        ...

    def blob_bytes(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A small blob, verified."""
        ...

    def fetch_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        path: Path,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Bring a blob to ``path``, verified; returns the bytes that were moved for it."""
        ...


def select_image(
    source: ImageSource,
    reference: Reference,
    platform: Platform,
    *,
    digest: Digest | None = None,
) -> tuple[Digest, Manifest, ImageConfig]:
    """What the reference means for a platform: top digest, manifest, configuration.

    ``digest`` is what a poll found, if there was one.  Raises `UnsupportedImage`
    where there is nothing for the platform, naming what there is, and `DigestMismatch`
    where an index has another size for a manifest than that has.
    """
    top = source.manifest(reference, digest)
    if isinstance(top, Manifest):
        config = _config(source, reference, top)
        if platform.matches(config.platform):
            return top.digest, top, config
        raise _no_platform(platform, [str(config.platform)]).within(image=reference.name)
    seen: list[str] = []
    for found, named in _candidates(source, reference, top, platform, seen, MAX_INDEX_DEPTH):
        config = _config(source, reference, found)
        # An index's word counts more than the configuration's, which often lacks the variant.
        if named or platform.matches(config.platform):
            return top.digest, found, config
        seen.append(str(config.platform))
    raise _no_platform(platform, seen).within(image=reference.name)


def _candidates(
    source: ImageSource,
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
            found = source.manifest(reference, entry.digest)
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
            yield from _candidates(source, reference, found, platform, seen, depth - 1)


def _config(source: ImageSource, reference: Reference, manifest: Manifest) -> ImageConfig:
    raw = source.blob_bytes(reference, manifest.config)
    try:
        return ImageConfig.parse(raw, layers=len(manifest.layers))
    except DuccmakeError as error:
        raise error.within(image=reference.name) from None


def _no_platform(wanted: Platform, there: Iterable[str]) -> UnsupportedImage:
    names = ", ".join(sorted(set(there))) or "none"
    return UnsupportedImage(
        f"there is no image for {wanted}, only for: {names}",
        hint="wish for one of these platforms, or remove the entry",
    )
