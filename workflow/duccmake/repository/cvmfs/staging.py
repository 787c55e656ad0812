"""What jobs that stage layers and flat trees have to know of a CernVM-FS repository."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from ...cvmfs.catalog import CatalogFile, Nested
from ...cvmfs.codec import Codec, Level
from ...cvmfs.keeping import Keeping
from ...cvmfs.known import KnownContentWriter
from ...cvmfs.manifest import Manifest
from ...cvmfs.revision import Revision
from ...cvmfs.storage import PUBLISHED, Storage
from ...cvmfs.storage.http import HttpStorage
from ...cvmfs.storage.local import LocalStorage
from ...cvmfs.storage.s3 import S3Storage
from ...cvmfs.storage.s3_settings import S3Settings, is_readable
from ...errors import RepositoryError
from ...layer.catalogs import CatalogForm, TreeContents, contents_below
from ...layer.known_objects import Known
from ...oci.reference import Digest
from ..layout import Layout
from ..settings import RepositorySettings
from .revision_view import RevisionView
from .settings import ServerSettings

log = logging.getLogger(__name__)


class Staging:
    """How trees are staged for the repository ``name``, and what it has already.

    Raises `RepositoryError` where this machine does not publish it.
    """

    def __init__(self, settings: RepositorySettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._layout = Layout(Path("/") / settings.prefix)

    def layer(self, digest: Digest, index: Path | None = None) -> CatalogForm:
        """How a layer is staged; what the file ``index`` knows need not be compressed."""
        form = self._form(self._layout.seen(self._layout.layerfs(digest)))
        storage = storage_directory(self._server)
        # From elsewhere an object is fetched no faster than content is compressed again.
        if index is None or storage is None:
            return form
        return replace(form, known=Known(index, storage))

    def learn(self, index: Path, seconds: float) -> None:
        """Enter into ``index`` what published layers have, for about so long."""
        if storage_directory(self._server) is None:
            return
        from .known_layers import enter_layers

        storage = open_storage(self._server)
        view = RevisionView(storage, self._layout, self._settings.prefix.strip("/"))
        with KnownContentWriter(index) as writer, view.revision:
            if not enter_layers(writer, view, seconds):
                log.info("not all that is published is known yet: more is looked at next time")

    def flat(self, config: Digest) -> CatalogForm:
        """How a flat tree is staged."""
        return self._form(self._layout.seen(self._layout.flat(config)))

    def published(self, digest: Digest) -> TreeContents:
        """The content of a published layer's files; `FileNotFoundError` where it is not there."""
        at = os.fsencode(self._layout.seen(self._layout.layerfs(digest)))
        with self._newest() as revision:
            return published_contents(revision, at)

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
        storage = open_storage(self._server)
        manifest = Manifest.parse(storage.file(PUBLISHED))
        with Revision(storage, manifest.root, size=manifest.root_size) as revision:
            yield revision


def storage_directory(settings: ServerSettings) -> Path | None:
    """Where the objects of a repository are, if they are in a directory of this machine."""
    kind, _, rest = settings.upstream.partition(",")
    directory = rest.partition(",")[2]
    return Path(directory) if kind == "local" and directory else None


def open_storage(settings: ServerSettings) -> Storage:
    """Where the objects of a repository that this machine publishes are stored.

    Who may not read the keys of a bucket only reads, as everybody does; so does a machine
    that makes layers for the one with the storage.
    """
    upstream = settings.upstream
    directory = storage_directory(settings)
    is_elsewhere = directory is not None and not directory.is_dir()
    if upstream.startswith("local,") and not is_elsewhere:
        return LocalStorage.parse(upstream)
    if upstream.startswith("S3,") and is_readable(upstream):
        bucket = S3Settings.read(upstream)
        if bucket.signature != "azure":
            return S3Storage(bucket)
    return HttpStorage(settings.url)


def check_public(settings: ServerSettings) -> None:
    """`RepositoryError` where the stratum 0 cannot be read by everybody.

    CernVM-FS' own programs read it so, and clients: an object in a bucket may need more
    than the right keys.
    """
    try:
        HttpStorage(settings.url).file(PUBLISHED)
    except RepositoryError as error:
        raise RepositoryError(
            f"{settings.name} cannot be read by everybody: {error.found}",
            hint="see CVMFS_STRATUM0, CVMFS_S3_X_AMZ_ACL and the policy of the bucket",
        ) from None


def published_contents(revision: Revision, at: bytes) -> TreeContents:
    """The content of the files of a tree of the revision; `FileNotFoundError` where none is."""
    if revision.row(at) is None:
        raise FileNotFoundError(f"{at!r} is not in the repository")

    def opened(nested: Nested) -> CatalogFile:
        return CatalogFile.read(revision.catalog_content(nested.hash, nested.size))

    return TreeContents(at, contents_below(at, opened(revision.name_of_catalog(at)), opened))
