"""All that a root catalog leads to."""

from duccmake.cvmfs.catalog import CatalogFile
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import names_of


def catalogs(revision, root, known=()):
    """Each catalog from a root down: its hash and the catalog; those known are passed over."""
    waiting, seen = [root], set(known)
    while waiting:
        digest = waiting.pop()
        if digest in seen:
            continue
        seen.add(digest)
        with CatalogFile.read(revision.catalog_content(digest)) as catalog:
            yield digest, catalog
            waiting += [nested.hash for nested in catalog.nested().values()]


def objects(digest, catalog):
    """The objects that a catalog needs, and its own."""
    yield digest + Kind.CATALOG
    for content in catalog.contents().values():
        yield from names_of(content)
