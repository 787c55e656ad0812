"""What jobs that stage layers and flat trees have to know of a CernVM-FS repository."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from ...cvmfs.catalog import CatalogFile, Nested
from ...cvmfs.codec import Codec, Level
from ...cvmfs.keeping import Keeping
from ...cvmfs.manifest import Manifest
from ...cvmfs.revision import Revision
from ...cvmfs.storage import Storage
from ...cvmfs.storage.http import HttpStorage
from ...cvmfs.storage.local import LocalStorage
from ...layer.catalogs import CatalogForm, TreeContents, contents_below
from ...oci.reference import Digest
from ..layout import Layout
from ..settings import RepositorySettings
from .settings import ServerSettings


class Staging:
    """How trees are staged for the repository ``name``, and what it has already.

    Raises `RepositoryError` where this machine does not publish it.
    """

    def __init__(self, settings: RepositorySettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._layout = Layout(Path("/") / settings.prefix)

    def layer(self, digest: Digest) -> CatalogForm:
        """How a layer is staged."""
        return self._form(self._layout.layerfs(digest))

    def flat(self, config: Digest) -> CatalogForm:
        """How a flat tree is staged."""
        return self._form(self._layout.flat(config))

    def published(self, digest: Digest) -> TreeContents:
        """The content of a published layer's files; `FileNotFoundError` where it is not there."""
        at = os.fsencode(self._layout.layerfs(digest))
        with self._newest() as revision:
            if revision.row(at) is None:
                raise FileNotFoundError(f"{at!r} is not in the repository")

            def opened(nested: Nested) -> CatalogFile:
                return CatalogFile.read(revision.catalog_content(nested.hash, nested.size))

            top = revision.catalog(at)
            found = contents_below(at, top, opened)
        return TreeContents(at, found)

    def _form(self, at: Path) -> CatalogForm:
        keeping = Keeping(self._server.nanoseconds, self._settings.hard_links)
        codec = Codec(Level(self._settings.compression))
        # What is staged is not in the repository, but may have been.
        return CatalogForm(os.fsencode(at), keeping, codec, secrets.token_hex(8))

    @cached_property
    def _server(self) -> ServerSettings:
        return ServerSettings.read(self._name, self._settings.server_config)

    @contextmanager
    def _newest(self) -> Iterator[Revision]:
        storage = self._storage()
        manifest = Manifest.parse(storage.manifest())
        with Revision(storage, manifest.root, size=manifest.root_size) as revision:
            yield revision

    def _storage(self) -> Storage:
        if self._server.upstream.startswith("local,"):
            return LocalStorage.parse(self._server.upstream)
        return HttpStorage(self._server.url)
