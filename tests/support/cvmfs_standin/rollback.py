"""An old root catalog as that of a new revision."""

import tempfile
import time
from pathlib import Path

from duccmake.cvmfs import catalog
from duccmake.cvmfs.catalog import CatalogFile, Nested
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import Objects


def root_again(repository, root, revision):
    """Store an old root catalog with another revision; its hash and size."""
    with repository.opened(root) as old:
        content = old.catalog_content(root)
    with CatalogFile.read(content) as file:
        properties = {"revision": revision, "last_modified": int(time.time())}
        properties["previous_revision"] = repository.manifest().get("C")
        for key, value in properties.items():
            catalog.set_property(file.db, key, str(value))
        content = file.db.serialize()
    with tempfile.TemporaryDirectory(dir=repository.spool / "tmp") as made:
        objects = Objects(Path(made))
        digest = objects.put(content, Kind.CATALOG).hex()
        repository.storage.put_all(objects.directory, [digest + Kind.CATALOG])
    return Nested(digest, len(content))
