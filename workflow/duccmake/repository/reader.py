"""What is published, read from what a repository shows; every backend reads it this way."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from ..errors import InvalidReference
from ..layer.measured import STAGED, Measured
from ..oci.reference import Digest
from ..products import Product
from ..tree.directories import Directories
from ..tree.file_tree import FileTree
from ..tree.mtree import Entry
from ..tree.verify import Compared, Digests, Found, Tree, differences
from . import podman
from .damage import Damage, Reading
from .failures import reported
from .flat_trees import flat_tree, measured_layer
from .inventory import image_names
from .layout import Layout
from .model import ANY_VARIANT, ImageRecord
from .verification import verify_image
from .view import DirectoryView, View

log = logging.getLogger(__name__)


class PublishedTree:
    """The published part of the repository ``name`` in the directory ``root / name``.

    The half of `Repository` that only reads; `Publisher` is the other.
    ``clients_root`` is what stands for ``root`` on the machines that use the repository.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        clients_root: Path | None = None,
        variant_links: bool = False,
    ) -> None:
        if not name or name.startswith(".") or "/" in name or not name.isprintable():
            raise InvalidReference(
                f"{name!r} is not the name of a repository",
                hint="write it like unpacked.example.org",
            )
        self._name = name
        self._clients = clients_root and clients_root / name
        self._variant_links = variant_links
        self._read_from(Path(root).absolute() / name)

    def _read_from(self, path: Path) -> None:
        self._path = path
        self._view: View = DirectoryView(path, Layout(self._clients or path, self._variant_links))

    @property
    def name(self) -> str:
        """The CernVM-FS name, like ``unpacked.cern.ch``."""
        return self._name

    @property
    def path(self) -> Path:
        """The directory that holds the repository."""
        return self._path

    @property
    def view(self) -> View:
        """What it shows, and where things lie in it."""
        return self._view

    @property
    def _layout(self) -> Layout:
        return self._view.layout

    @property
    def own_directory(self) -> Path | None:
        """Where this machine keeps what is the repository's own; None for who only reads."""
        return None

    @property
    def revision(self) -> int | None:
        """The number of what is shown, where there are revisions."""
        return None

    def reading(self) -> AbstractContextManager[None]:
        """Read files of the repository inside: it stays readable so long."""
        return nullcontext()

    def remarks(self) -> Iterator[str]:
        """What an operator should know of how the repository is published, for people."""
        return iter(())

    def reclaim(self) -> None:
        """Free the storage of what was removed, where removing it does not do so at once."""

    def record(self, name: str) -> ImageRecord | None:
        """The record of a published image, or None where something of it is missing."""
        with self.reading():
            record = self._read_record(name)
            return record if record is not None and self._is_whole(record) else None

    def description(self, name: str) -> ImageRecord | None:
        """The record of an image, though something of it may be missing."""
        with self.reading():
            return self._read_record(name)

    def measured(self, digest: Digest) -> Measured | None:
        """What a published layer was found to be; None where nobody has measured it."""
        with self.reading():
            return measured_layer(self._view, digest)

    def has_layer(self, digest: Digest, algorithm: str = "sha256") -> bool:
        """Whether the layer is published, whole, and its diff_id by ``algorithm`` measured."""
        with self.reading():
            found = self.measured(digest)
            known = found is not None and found.diff_id(algorithm) is not None
            return known and self._view.is_dir(self._layout.layerfs(digest))

    def has_flat(
        self, config: Digest, layers: Sequence[Digest], fix_permissions: bool = False
    ) -> bool:
        """Whether these layers and a flat tree of what they unpack to are published, whole."""
        with self.reading():
            if not all(map(self.has_layer, layers)):
                return False
            found = [one for one in map(self.measured, layers) if one is not None]
            tree = flat_tree(self._view, config, layers, found)
            return tree is not None and tree.fix_permissions == fix_permissions

    def variant(self, name: str) -> str:
        """Which platform's image the public link of ``name`` leads to; see `Repository`."""
        label = self._layout.variant(name, self._view.target(self._layout.link(name)))
        return ANY_VARIANT if label and self._layout.variant_links else label

    def names(self) -> Iterator[str]:
        """The names of all images that have a manifest here, sorted; DUCC's are among them.

        Those of images of several platforms begin with ``.multiarch``.
        """
        with self.reading(), reported("list the images"):
            return iter(image_names(self._view))

    def verify(self, name: str, *, content: bool = True) -> list[str]:
        """Hold a published image to what it should be: one line for each thing that is wrong.

        Without ``content`` files are not read; that their content is there is seen all the same.
        """
        with reported("verify", name):
            if self.record(name) is None:
                return [f"{name} is not published, or not wholly"]
            return list(map(str, verify_image(self, name, Reading(content))))

    def compare(
        self,
        path: PurePosixPath,
        manifest: PurePosixPath,
        digests: Digests,
        reading: Reading,
        layers: Sequence[PurePosixPath] = (),
    ) -> Iterator[Damage]:
        """The differences between a tree and its manifest; ``digests`` are known content's.

        Files that are those of ``layers``, whose numbers entries have, are not read.
        """
        if not self._view.is_file(manifest):
            yield Damage(str(path), "has no manifest")
            return
        directories = Directories()
        with ExitStack() as stack:
            tree, *shared = (
                stack.enter_context(self._shown_tree(each, directories)) for each in (path, *layers)
            )
            compared = replace(
                self._compared(path, reading), is_read_elsewhere=partial(_is_of, shared)
            )
            for found in differences(tree, self._view.lines(manifest), digests, compared):
                at = "" if found.path == "." else f"/{found.path}"
                yield Damage(f"{path}{at}", found.words)

    def structure(self) -> Iterator[Damage]:
        """What is wrong with how the repository is stored: a directory is what it is."""
        return iter(())

    def _read_record(self, name: str) -> ImageRecord | None:
        path = self._layout.record(name)
        try:
            content = self._view.read(path)
        except OSError:
            return None
        record = ImageRecord.read(content)
        if record is None:
            log.warning("%s is damaged", self._layout.seen(path))
            return None
        return record if record.name == name else None

    def _is_whole(self, record: ImageRecord) -> bool:
        """Whether all is there that makes an image visible."""
        return (
            self._view.is_file(self._layout.manifest(record.name))
            and podman.holds(self._view, record)
            and (Product.FLAT not in record.products or self._points_to(record))
        )

    def _points_to(self, record: ImageRecord) -> bool:
        target = self._view.target(self._layout.link(record.name))
        wished = self._layout.link_target(record.name, record.config)
        return target == wished and self._view.is_dir(self._layout.flat(record.config))

    @contextmanager
    def _shown_tree(self, path: PurePosixPath, directories: Directories) -> Iterator[Tree]:
        """A tree of the repository, to be compared."""
        with FileTree(os.fsencode(self._path / path), directories) as tree:
            yield tree

    def _compared(self, path: PurePosixPath, reading: Reading) -> Compared:
        """What of a tree is compared."""
        above = path.parent
        return Compared(
            owners=(self._path / above).stat().st_uid == 0,
            content=reading.content,
            read=reading.read,
            opaque=_marks_opaque(self._view.content(above / ".metadata" / STAGED)),
        )


def _marks_opaque(summary: bytes) -> bool:
    """Whether all opaque directories of a layer could be marked, by what its unpacker noted."""
    try:
        return "opaque" not in json.loads(summary).get("lost", {})
    except (ValueError, AttributeError):
        return False


def _is_of(layers: Sequence[Tree], entry: Entry, found: Found) -> bool:
    """Whether what was found is the file of the layer that provides an entry."""
    if entry.layer is None or not 0 <= entry.layer < len(layers):
        return False
    try:
        return layers[entry.layer].found(entry.content_path).content == found.content
    except OSError:
        return False
