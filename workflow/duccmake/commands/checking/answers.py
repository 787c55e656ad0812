"""What registries say of the images of a wish list: asked side by side, and each thing once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ...config.configuration import Config
from ...errors import DuccmakeError, RateLimited
from ...oci.content_store import ContentStore
from ...oci.manifest import Descriptor
from ...oci.reference import Digest, Platform, Reference
from ...oci.tags import TagRules
from ...planning.clients import anonymous_client, polling_client
from ...planning.privacy import is_public
from ...recipe.model import Wish
from ...registry.cached import CachedManifests
from ...registry.client import Client
from ...registry.images import select_image
from ...registry.places import Places
from ...registry.tag_pages import IncompleteList


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags that a glob stands for, or why they cannot be told; ``listed`` are all there are."""

    chosen: tuple[str, ...] = ()
    listed: int = 0
    error: DuccmakeError | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry says of an image, for one platform where that was asked for.

    ``layers`` are None where only its being there was asked for.  ``is_private``: it is
    shown to nobody without credentials.
    """

    reference: Reference
    platform: Platform
    digest: Digest | None = None
    layers: tuple[Descriptor, ...] | None = None
    error: DuccmakeError | None = None
    is_private: bool = False

    @property
    def bytes(self) -> int | None:
        """What its layers have, compressed."""
        return None if self.layers is None else sum(size_of(self.layers).values())


def size_of(layers: Iterable[Descriptor]) -> dict[Digest, int]:
    """The sizes of layers, each once."""
    return {layer.digest: layer.size for layer in layers}


class Registries:
    """Asks for tags and images; a context, in which threads and connections are kept."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._anybody = anonymous_client(config)
        self._client: Client = polling_client(config, {})
        self._places = Places(self._client)
        self._pool = ThreadPoolExecutor(config.resolve.connections, thread_name_prefix="check")
        self._directory = tempfile.TemporaryDirectory(prefix="duccmake-")
        self._store = ContentStore(Path(self._directory.name))

    def __enter__(self) -> Registries:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._client.close()
        self._anybody.close()
        self._directory.cleanup()

    def tags(self, globs: Sequence[Wish]) -> list[Tags]:
        """What globs stand for; a repository is listed once for all of them."""
        places = list(dict.fromkeys(_all_of(wish) for wish in globs))
        listed = dict(zip(places, self._pool.map(self._list, places), strict=True))
        return [_chosen(wish, listed[_all_of(wish)]) for wish in globs]

    def _list(self, reference: Reference) -> list[str] | DuccmakeError:
        try:
            return self._places.of(reference).tags(reference)
        except DuccmakeError as error:
            return error

    def images(
        self, wished: Sequence[tuple[Reference, Sequence[Platform]]], known: Callable[[str], bool]
    ) -> list[Answer]:
        """What images are, for their platforms; of those that are ``known`` whether they are there.

        That costs a HEAD, which no registry counts as a pull.
        """

        def ask(item: tuple[Reference, Sequence[Platform]]) -> list[Answer]:
            reference, platforms = item
            if known(reference.name):
                return [self._presence(reference, platform) for platform in platforms[:1]]
            manifests = CachedManifests(self._places.of(reference), self._store)
            return [self._image(manifests, reference, platform) for platform in platforms]

        return [answer for answers in self._pool.map(ask, wished) for answer in answers]

    def _image(
        self, manifests: CachedManifests, reference: Reference, platform: Platform
    ) -> Answer:
        try:
            top, manifest, _ = select_image(manifests, reference, platform)
            private = self._is_private(reference)
        except RateLimited:
            # What is left of the budget says nothing of the image.
            return self._presence(reference, platform)
        except DuccmakeError as error:
            return Answer(reference, platform, error=error)
        return Answer(reference, platform, top, manifest.layers, is_private=private)

    def _presence(self, reference: Reference, platform: Platform) -> Answer:
        try:
            digest = self._places.of(reference).poll(reference)
            return Answer(reference, platform, digest, is_private=self._is_private(reference))
        except DuccmakeError as error:
            return Answer(reference, platform, error=error)

    def _is_private(self, reference: Reference) -> bool:
        if reference.is_local or self._client.reads_as_anybody(reference):
            return False
        return not is_public(self._anybody, reference)


def _all_of(wish: Wish) -> Reference:
    return replace(wish.reference, tag="*")


def _chosen(wish: Wish, listed: list[str] | DuccmakeError) -> Tags:
    rules = wish.wished.tags or TagRules((wish.reference.tag,))
    if isinstance(listed, IncompleteList):  # what came of it counts, as it does in a run
        return Tags(tuple(rules.choose(listed.tags)), len(listed.tags), listed)
    if isinstance(listed, DuccmakeError):
        return Tags(error=listed)
    return Tags(tuple(rules.choose(listed)), len(listed))
