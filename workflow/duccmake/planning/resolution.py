"""What became of a recipe's wishes: images as registries have them, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import DuccmakeError, Fault
from ..oci.content_store import ContentStore
from ..oci.manifest import ImageConfig, Manifest, parse_manifest
from ..oci.reference import Digest, Platform, Reference
from ..products import Product


@dataclass(frozen=True, slots=True)
class Resolved:
    """An image that is wished for, as its registry has it: digests, which say it all.

    ``platforms`` are all that the image is wished for on, and ``products`` what is
    made of it, where that is not what the configuration says.  ``stale`` says why
    the registry could not be asked, where that is so and the last answer is in force.
    ``top`` is what the reference itself names: the manifest, or an index that leads to it.
    """

    reference: Reference
    platform: Platform
    ignorable: bool
    manifest: Digest
    config: Digest
    stale: str = ""
    platforms: tuple[Platform, ...] = ()
    products: tuple[Product, ...] = ()
    top: Digest | None = None

    @property
    def path(self) -> str:
        """The image's path in the repository."""
        return path_of(self.reference, self.platform, self.platforms)

    def read(self, store: ContentStore) -> tuple[Manifest, ImageConfig]:
        """Manifest and configuration, which most images of most runs need not be read.

        Raises `DuccmakeError` where they are not kept any more.
        """
        raw, config = store.get(self.manifest), store.get(self.config)
        if raw is None or config is None:
            raise DuccmakeError(
                "what was kept of its manifest is damaged",
                image=self.reference.name,
                step="resolve",
                hint="run again: it is fetched anew",
            )
        manifest = parse_manifest(raw, algorithm=self.manifest.algorithm)
        assert isinstance(manifest, Manifest)
        return manifest, ImageConfig.parse(config, layers=len(manifest.layers))


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A wish that cannot be followed, and why; ``passing`` failures may mend themselves.

    ``platform`` is the one of several that cannot be had; ``path`` is where the
    image is in the repository, if it is there.  ``fault`` is what is at fault.
    """

    name: str
    platform: Platform | None
    ignorable: bool
    reason: str
    passing: bool = False
    path: str = ""
    fault: Fault = Fault.OTHER


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of a recipe's wishes, each list sorted by name."""

    resolved: tuple[Resolved, ...]
    unresolved: tuple[Unresolved, ...]

    @classmethod
    def of(cls, items: Iterable[Resolved | Unresolved]) -> Resolution:
        """Sort them."""
        both = list(items)
        resolved = [item for item in both if isinstance(item, Resolved)]
        unresolved = [item for item in both if isinstance(item, Unresolved)]
        resolved.sort(key=lambda item: (item.reference.name, item.platform))
        unresolved.sort(key=lambda item: item.name)
        return cls(tuple(resolved), tuple(unresolved))


def path_of(reference: Reference, platform: Platform, platforms: Sequence[Platform]) -> str:
    """An image's path in the repository, of the ``platforms`` that it is wished for on."""
    return reference.name_on(platform) if len(platforms) > 1 else reference.name
