"""Whether the catalogs of a repository keep to the format's rules, and hang as they should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from ...cvmfs.catalog import CatalogFile
from ...cvmfs.check import Fault, all_faults
from ...cvmfs.names import storage_path
from ...cvmfs.storage import PUBLISHED
from ..damage import Damage
from .revision_view import RevisionView

_NAMED = "HMX"
"""The letters of a manifest that name objects: tags, metainfo, certificate."""


def damage_of_tree(view: RevisionView, path: PurePosixPath) -> Iterator[Damage]:
    """What is wrong with the catalogs that begin in a tree, or below it."""
    at, revision = view.at(path), view.revision
    with CatalogFile.read(revision.catalog_content(*revision.name_of_catalog(at))) as catalog:
        if catalog.root_prefix == at:
            yield from _told(view, all_faults(catalog, revision.catalog_content))


def damage_above_trees(view: RevisionView) -> Iterator[Damage]:
    """What is wrong with the catalogs that are of no layer and of no flat tree.

    What the manifest names besides them is looked for, too.
    """
    values = ((letter, view.manifest.get(letter)) for letter in _NAMED)
    named = {value + letter for letter, value in values if value.strip("0")}
    for name in sorted(named - view.revision.storage.has(named)):
        yield Damage(PUBLISHED, f"names the object {storage_path(name)}, which is not there")
    tops = [view.at(top) + b"/" for top in (view.layout.layers, view.layout.flats)]

    def is_tree(path: bytes) -> bool:
        # <dd>/<digits>, and for a layer more.
        return any(path.startswith(top) and path.count(b"/", len(top)) for top in tops)

    revision = view.revision
    at = view.at(PurePosixPath())
    with CatalogFile.read(revision.catalog_content(*revision.name_of_catalog(at))) as catalog:
        yield from _told(view, all_faults(catalog, revision.catalog_content, is_tree))


def _told(view: RevisionView, faults: Iterator[Fault]) -> Iterator[Damage]:
    base = view.at(PurePosixPath()).decode(errors="backslashreplace")
    for path, words in faults:
        at = path.decode(errors="backslashreplace").removeprefix(base).lstrip("/")
        yield Damage(at or ".", f"its catalog: {words}")
