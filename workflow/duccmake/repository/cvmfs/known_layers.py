"""What is known of published content: entered into the index from layers and their manifests."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from ...cvmfs.known import KnownContentWriter
from ...cvmfs.rows import Content
from ...errors import InvalidReference, RepositoryError
from ...layer.catalogs import TreeContents
from ...oci.reference import Digest
from ...tree import mtree
from ..layout import digest_of
from ..view import Kind
from .revision_view import RevisionView
from .staging import published_contents

log = logging.getLogger(__name__)

_FILE = re.compile(rb"\./(\S+) type=file .* sha256=([0-9a-f]{64})[ \n]")


def enter_layers(index: KnownContentWriter, view: RevisionView, seconds: float) -> bool:
    """Enter what is in the layers that the view shows and is not entered; whether that is all.

    Once ``seconds`` are over, the rest is left for the next time.  So are layers without a
    manifest, which says what is in their files: it may be made later.
    """
    end = time.monotonic() + seconds
    top = view.layout.layers
    for name in view.entries(top):
        # Of thousands of layers only those are looked at that have new ones beside them.
        place = view.at(top / name)
        catalog = view.revision.name_of_catalog(place).hash
        if index.is_entered(place, catalog):
            continue
        for digest in _layers(view, top / name):
            if time.monotonic() >= end:
                return False
            _enter_layer(index, view, digest)
        index.enter(place, catalog, ())
    return True


def _layers(view: RevisionView, directory: PurePosixPath) -> Iterator[Digest]:
    for name, kind in view.entries(directory).items():
        try:
            digest = Digest.parse(digest_of(name))
        except InvalidReference:
            continue
        if kind is Kind.DIRECTORY:
            yield digest


def _enter_layer(index: KnownContentWriter, view: RevisionView, digest: Digest) -> None:
    place = view.at(view.layout.layerfs(digest))
    catalog = view.revision.name_of_catalog(place).hash
    if index.is_entered(place, catalog):
        return
    try:
        contents = published_contents(view.revision, place)
        lines = view.lines(view.layout.layer_manifest(digest))
        index.enter(place, catalog, _files(lines, contents))
    except FileNotFoundError:
        log.info("what is in the layer %s is not known, as it has no manifest", digest)


def _files(lines: Iterable[bytes], contents: TreeContents) -> Iterator[tuple[str, Content]]:
    """The files of a manifest, by the digests that it claims; what is no file is left out."""
    for line in lines:
        match = _FILE.match(line)
        if match is None:
            continue
        try:
            yield match[2].decode(), contents.of(mtree.decode(match[1]))
        except RepositoryError:
            continue
