"""Garbage collection: what neither the newest revision nor a tag leads to is deleted.

Only what some noted root catalog or history leads to is ever looked at.
"""

import json
import time
from contextlib import suppress
from pathlib import Path

import reflog
from reach import catalogs, objects

from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.storage import STATUS, NotThere


def collect(repository):
    manifest = repository.manifest()
    with repository.history(manifest) as history:
        roots = history.roots() | {manifest.get("C")}
    histories = {manifest.get("H")}
    needed, known = {name + Kind.HISTORY for name in histories}, set()
    for root in roots:
        needed |= _led_to(repository, root, known)
    noted, all_histories = reflog.noted(repository.directory)
    garbage = {name + Kind.HISTORY for name in all_histories}
    for root in noted - roots:
        with suppress(NotThere):
            garbage |= _led_to(repository, root, known)
    for name in garbage - needed:
        repository.storage.delete(name)
    reflog.keep(repository.directory, roots, histories)


def note_when(repository):
    """What ``cvmfs_server`` notes when it has collected garbage."""
    now = time.strftime("%a %b %d %H:%M:%S UTC %Y", time.gmtime())
    Path(repository.directory, STATUS).write_text(json.dumps({"last_gc": now}))


def _led_to(repository, root, known):
    found = set()
    with repository.opened(root) as revision:
        for digest, catalog in catalogs(revision, root, known):
            known.add(digest)
            found.update(objects(digest, catalog))
    return found
