"""What a repository is to the rest of duccmake; two backends keep to it.

`duccmake.repository.directory` is a plain directory tree, `duccmake.repository.cvmfs`
CernVM-FS itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Protocol

from ..layer.measured import Measured
from ..oci.reference import Digest
from ..tree.verify import Digests
from .damage import Damage, Reading
from .edits import Edits
from .model import ChangeSet, ImageRecord
from .view import View


class Readable(Protocol):
    """What is published in a repository, as far as one has to see it to verify it."""

    @property
    def view(self) -> View:
        """What it shows, and where things lie in it."""
        ...

    def reading(self) -> AbstractContextManager[None]:
        """Read files of the repository inside: a publisher that ends waits so long."""
        ...

    def description(self, name: str) -> ImageRecord | None:
        """The record of an image as it stands there, though something of it may be missing."""
        ...

    def variant(self, name: str) -> str:
        """The label of the platform whose image the public link of ``name`` leads to.

        `ANY_VARIANT` where each reader's machine decides; empty where there is no such
        link, because the image is there for one platform alone, or not at all.
        """
        ...

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
        ...

    def structure(self) -> Iterator[Damage]:
        """What is wrong with how the repository is stored, whatever is in it."""
        ...


class Repository(Readable, Protocol):
    """A repository that images are published into; paths are DUCC's layout."""

    @property
    def name(self) -> str:
        """The CernVM-FS name, like ``unpacked.cern.ch``."""
        ...

    @property
    def own_directory(self) -> Path | None:
        """Where this machine keeps what is the repository's own and not published.

        None where it does not publish the repository; `prepare` makes the directory.
        """
        ...

    def prepare(self) -> None:
        """Make the directory of its own; `RepositoryError` or `NoSpace`."""
        ...

    @property
    def revision(self) -> int | None:
        """The number of what is shown, where a repository has revisions."""
        ...

    def record(self, name: str) -> ImageRecord | None:
        """The record of a published image, or None.

        None as well where something that makes it visible is missing (its link,
        flat tree or manifest): it then has to be published again.
        """
        ...

    def measured(self, digest: Digest) -> Measured | None:
        """What a published layer was found to be; None where nobody has measured it."""
        ...

    def has_layer(self, digest: Digest, algorithm: str = "sha256") -> bool:
        """Whether the layer is published, whole, and its diff_id by ``algorithm`` measured."""
        ...

    def has_flat(
        self, config: Digest, layers: Sequence[Digest], fix_permissions: bool = False
    ) -> bool:
        """Whether these layers and the flat tree that was made of them are published, whole."""
        ...

    def names(self) -> Iterator[str]:
        """The names of all published images, sorted."""
        ...

    def is_locked(self) -> bool:
        """Whether somebody holds the repository at this moment."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Hold the repository for publishing; `RepositoryLocked` after the time limit.

        Entering also finishes or undoes what a publisher that died left behind.
        """
        ...

    def publish(self, changes: ChangeSet, more: Callable[[], Iterable[ChangeSet]] = tuple) -> None:
        """Publish a change set: all of it or, when this raises, none of its images.

        Where publishing takes its time, it may ask ``more`` what has got ready
        meanwhile, an image at a time, and take that along.

        Only under `lock`.  What is published already is skipped, so publishing
        twice is harmless.  Staged layers are used up (moved) where that is cheaper.
        """
        ...

    def edit(self, edits: Edits) -> None:
        """Carry out edits alone, in one transaction: all of them or, when this raises, none.

        Only under `lock`; nothing is done where there is nothing to edit.
        """
        ...

    def remarks(self) -> Iterator[str]:
        """What an operator should know of how the repository is published, for people.

        `RepositoryError` where it cannot be read.
        """
        ...

    def reclaim(self) -> None:
        """Free the storage of what was removed, where removing it does not do so at once.

        Only under `lock`.
        """
        ...

    def verify(self, name: str, *, content: bool = True) -> list[str]:
        """Hold a published image to what it should be: one line for each thing that is wrong.

        Without ``content`` files are not read; that their content is there is seen all the same.
        """
        ...
