"""The images of a store: their entries in ``images.json``, their names and their big data."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import RepositoryError
from ...oci.manifest import Manifest, parse_manifest
from ...oci.reference import Digest
from ..edits import Edits
from ..layout import digest_of
from ..model import StagedImage
from . import paths
from .index import Entry, Index, save
from .names import names_of, pinned_names_of
from .paths import big_data


class ImageEntries:
    """The images of the store as they are after the edits so far, and the further edits."""

    def __init__(self, edits: Edits) -> None:
        self._edits = edits
        path = edits.layout.seen(paths.IMAGES_INDEX)
        self._index = Index(edits.content(paths.IMAGES_INDEX), path)
        self._published = {
            name: entry
            for entry in self._index.entries.values()
            for name in entry.get("published", ())
        }

    @property
    def entries(self) -> dict[str, Entry]:
        """The entries by id."""
        return self._index.entries

    def add(self, image: StagedImage, layer: str, created: str) -> None:
        """Put an image in, whose uppermost layer is ``layer``, or give it one more name."""
        identity = image.config.hex
        entry = self.entries.setdefault(identity, {"id": identity})
        entry.update({"layer": layer} if layer else {})
        entry["created"] = created
        entry["published"] = {**entry.get("published", {}), image.name: str(image.manifest)}
        entry.pop("retired", None)
        self._published[image.name] = entry
        directory = paths.image(image.config)
        self._edits.file(big_data(directory, str(image.config)), image.config_bytes)
        self._edits.file(big_data(directory, f"manifest-{image.manifest}"), image.manifest_bytes)
        self._describe(entry)

    def release(self, name: str) -> None:
        """Take a name of the repository from the image that has it."""
        entry = self._published.pop(name, None)
        if entry is None:
            return
        manifest = entry["published"].pop(name)
        if not entry["published"]:
            entry["retired"] = {name: manifest}
        self._describe(entry)

    def remove(self, identity: str) -> None:
        """Take an image out; its layers stay."""
        entry = self.entries.pop(identity, None)
        if entry is None:
            return
        if entry.get("published"):
            raise RepositoryError(
                f"{next(iter(entry['published']))} is published, but what it is made of is "
                "to be removed",
                step="podman store",
            )
        self._index.name(entry, ())
        self._edits.remove(paths.IMAGES / identity)

    def _describe(self, entry: Entry) -> None:
        """Names and big data of an image, from the names that it has in the repository."""
        published, retired = entry.get("published", {}), entry.get("retired", {})
        names: list[str] = []
        for name, manifest in published.items():
            names += names_of(name) or pinned_names_of(name, Digest.parse(manifest))
        for name, manifest in retired.items():
            names += pinned_names_of(name, Digest.parse(manifest))
        self._index.name(entry, names)
        manifests = list(dict.fromkeys([*published.values(), *retired.values()]))
        config = digest_of(entry["id"])
        digests = {config: config, **{f"manifest-{digest}": digest for digest in manifests}}
        directory = paths.image(Digest.parse(config))
        for key in entry.get("big-data-names", ()):
            if key not in digests and key != "manifest":
                self._edits.remove(big_data(directory, key))
        # The one that counts where nobody asks for a certain one: the latest.
        entry["digest"] = digests["manifest"] = manifests[-1]
        latest = self._edits.content(big_data(directory, f"manifest-{manifests[-1]}"))
        self._edits.file(directory / "manifest", latest)
        entry["big-data-names"] = list(digests)
        entry["big-data-sizes"] = {
            key: len(self._edits.content(big_data(directory, key))) for key in digests
        }
        entry["big-data-digests"] = digests

    def manifests(self, image: Entry) -> Iterator[Manifest]:
        """The manifests that an image had here under its names."""
        directory = paths.IMAGES / image["id"]
        for key in image.get("big-data-names", ()):
            if key.startswith("manifest-"):
                manifest = parse_manifest(self._edits.content(big_data(directory, key)))
                if isinstance(manifest, Manifest):
                    yield manifest

    def save(self) -> None:
        """Write the index file."""
        save(self._edits, self._index, paths.IMAGES_INDEX)
