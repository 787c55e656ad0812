"""Garbage collection: what neither the newest revision nor a tag leads to is deleted."""

import re

from reach import catalogs, objects

from duccmake.cvmfs.names import Kind

_NAME = re.compile(r"[0-9a-f]{38}[A-Z]?")


def collect(repository):
    manifest = repository.manifest()
    with repository.history(manifest) as history:
        roots = history.roots() | {manifest.get("C")}
    needed, known = {manifest.get("H") + Kind.HISTORY}, set()
    for root in roots:
        with repository.opened(root) as revision:
            for digest, catalog in catalogs(revision, root, known):
                known.add(digest)
                needed.update(objects(digest, catalog))
    for path in repository.directory.glob("data/??/*"):
        if _NAME.fullmatch(path.name) and path.parent.name + path.name not in needed:
            path.unlink()
