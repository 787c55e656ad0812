"""A whole revision held to the rules of the format, and its objects to their names."""

from reach import catalogs, objects

from duccmake.cvmfs.catalog import CatalogFile
from duccmake.cvmfs.check import check_written
from duccmake.cvmfs.codec import decompress
from duccmake.errors import RepositoryError


def problems(repository, *, contents):
    """What is wrong; ``contents`` has all objects read."""
    manifest = repository.manifest()
    with repository.opened(manifest.get("C")) as revision:

        def read(digest):
            # As if nothing had been before: that would be passed over.
            with CatalogFile.read(revision.catalog_content(digest)) as catalog:
                catalog.db.execute("DELETE FROM properties WHERE key='previous_revision'")
                return catalog.db.serialize()

        try:
            found = {
                digest: list(objects(digest, catalog))
                for digest, catalog in catalogs(revision, manifest.get("C"))
            }
            check_written(found, read, repository.storage.has)
            if contents:
                for name in {name for names in found.values() for name in names}:
                    decompress(repository.storage.get(name))
            properties = revision.catalog(b"").properties()
            if properties["revision"] != manifest.get("S"):
                return [f"the manifest's revision is not {properties['revision']}"]
            if len(revision.catalog_content(manifest.get("C"))) != manifest.root_size:
                return ["the root catalog has another size than the manifest says"]
        except RepositoryError as error:
            return [str(error)]
    return []
