"""Files that are stored in several chunks, so that clients fetch the parts they read.

``cvmfs_server ingest`` stores every file as one object.  A file larger than the
repository's largest chunk goes ahead of the archive: its content, into its layer, by
a transaction of its own, where ``cvmfs_server publish`` cuts it; then all other places
by a second one, as grafts, which name the chunks and have no content.  Neither is
visible by any image's name yet.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import Any

from ...errors import RepositoryError
from ...layer.pack import Packed
from ...tree import mtree
from ...tree.attributes import AttributeSetter
from ...tree.directories import Directories, split
from ...tree.mtree import Entry
from .fidelity import keeps_name
from .transaction import Transactions

_GRAFT = b".cvmfsgraft-"
_PIECE = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Large:
    """A large file: its ``entry`` below the tree ``base``, and its content.

    ``staged`` is the staged layer that has it, ``source`` the published path of the
    file that it is the same as; one of the two.
    """

    base: bytes
    entry: Entry
    staged: Path | None = None
    source: bytes = b""

    @property
    def path(self) -> bytes:
        """Its path in the repository."""
        return b"%b/%b" % (self.base, self.entry.path)


@dataclass(slots=True)
class LargeFiles:
    """The large files of a change set, and the directories on the way to them."""

    limit: int
    contents: list[Large] = field(default_factory=list)
    copies: list[Large] = field(default_factory=list)
    _directories: dict[bytes, Entry] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.contents or self.copies)

    def of_layer(self, base: bytes, lines: Iterable[bytes], staged: Path) -> None:
        """Find those of a layer that is to be published below ``base``."""
        for entry in self._found(base, lines):
            if entry.hardlink:
                source = b"%b/%b" % (base, entry.hardlink)
                self.copies.append(Large(base, entry, source=source))
            elif b"lower" not in entry.flags:
                self.contents.append(Large(base, entry, staged=staged))

    def of_flat_tree(self, base: bytes, lines: Iterable[bytes], layers: Sequence[bytes]) -> None:
        """Find those of a flat tree whose files are those of ``layers``."""
        for entry in self._found(base, lines):
            if b"generated" not in entry.flags and entry.layer is not None:
                source = b"%b/%b" % (layers[entry.layer], entry.content_path)
                self.copies.append(Large(base, entry, source=source))

    def _found(self, base: bytes, lines: Iterable[bytes]) -> Iterator[Entry]:
        """The large files of a manifest; notes the directories above them."""
        directories: dict[bytes, bytes] = {}
        for line in lines:
            match = mtree.FILE_SIZE.search(line)
            if match is None:
                path, _, rest = line.partition(b" ")
                if rest.startswith(mtree.TYPE_DIR):
                    directories[path] = line
                continue
            if int(match[1]) <= self.limit:
                continue
            entry = Entry.parse(line)
            # Grafts are told by their name, and would not be taken for content.
            if not keeps_name(entry) or split(entry.path)[1].startswith(_GRAFT):
                continue
            parent = line.partition(b" ")[0]
            while parent != b".":
                parent = parent.rpartition(b"/")[0]
                above = Entry.parse(directories[parent])
                place = base if parent == b"." else b"%b/%b" % (base, above.path)
                self._directories[place] = above
            yield entry

    # --- publishing them ------------------------------------------------

    def publish(self, transactions: Transactions, published: Path) -> frozenset[bytes]:
        """Publish what is not there yet; returns the paths that are in chunks then.

        ``published`` is the mount that shows what is published.
        """
        there = [file for file in self.contents if _is_there(file, published)]
        if wanted := [file for file in self.contents if file not in there]:
            transactions.write(lambda union: self._writer(union, _Writer.contents, wanted))
        done = [file.path for file in self.contents]
        chunks = {file.source: _chunks(published, file.source) for file in self.copies}
        cut = [file for file in self.copies if chunks[file.source] is not None]
        done += [file.path for file in cut]
        cut = [
            file
            for file in cut
            if _chunks(published, file.path) != chunks[file.source]
            or not _has_attributes(file, published)
        ]
        if cut:
            grafts = [(file, chunks[file.source] or "") for file in cut]
            transactions.write(lambda union: self._writer(union, _Writer.grafts, grafts))
        return frozenset(done)

    def _writer(self, union: Path, put: Callable[[_Writer, Any], None], files: object) -> None:
        with Directories() as directories:
            put(_Writer(directories, union, self._directories), files)


class _Writer:
    """Puts files into an open transaction, without ever following a symlink."""

    def __init__(self, directories: Directories, union: Path, known: dict[bytes, Entry]) -> None:
        self._directories = directories
        self._union = os.fsencode(union.resolve())
        self._known = known
        self._attributes = AttributeSetter()
        self._made: dict[bytes, None] = {}

    def contents(self, files: Sequence[Large]) -> None:
        """Copy files from where they are staged."""
        for staged, of_layer in groupby(files, lambda file: file.staged):
            assert staged is not None
            with closing(Packed(staged)) as packed:
                for file in of_layer:
                    target = self._create(file.path)
                    try:
                        _copy(packed, target, file)
                        self._attributes.on_descriptor(target, _plain(file.entry))
                    finally:
                        os.close(target)
        self._settle()

    def grafts(self, files: Sequence[tuple[Large, str]]) -> None:
        """Make files of chunks that are published elsewhere."""
        for file, chunks in files:
            target = self._create(file.path)
            try:
                self._attributes.on_descriptor(target, _plain(file.entry))
            finally:
                os.close(target)
            parent, name = split(file.path)
            marker = self._create(b"%b/%b%b" % (parent, _GRAFT, name))
            try:
                os.write(marker, f"size={file.entry.size}\n{chunks}".encode())
            finally:
                os.close(marker)
        self._settle()

    def _create(self, path: bytes) -> int:
        parent, name = split(path)
        self._make(parent)
        directory = self._directories.get(self._union, parent)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=directory)

    def _make(self, path: bytes) -> None:
        if path == b"." or path in self._made:
            return
        parent, name = split(path)
        self._make(parent)
        try:
            os.mkdir(name, 0o755, dir_fd=self._directories.get(self._union, parent))
        except FileExistsError:
            if path not in self._known:
                return
        self._made[path] = None

    def _settle(self) -> None:
        """Give directories their attributes, now that nothing is put into them any more."""
        for path in sorted(self._made, reverse=True):
            descriptor = self._directories.get(self._union, path)
            entry = self._known.get(path)
            if entry is None:
                os.fchmod(descriptor, 0o755)
            else:
                self._attributes.on_descriptor(descriptor, _plain(entry))


def _plain(entry: Entry) -> Entry:
    """The entry without what CernVM-FS does not keep."""
    return Entry(
        entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size
    )


def _copy(source: Packed, target: int, file: Large) -> None:
    digest = hashlib.sha256()
    for piece in source.pieces(file.entry.path, file.entry.size, _PIECE):
        digest.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(target, view) :]
    if file.entry.sha256 and digest.hexdigest() != file.entry.sha256:
        raise RepositoryError(
            f"{file.entry.path!r} is staged with another content than its layer's manifest says",
            hint="remove the staged layer and run again",
        )


def _is_there(file: Large, published: Path) -> bool:
    """Whether an earlier try has published the file, whole."""
    if not _has_attributes(file, published):
        return False
    try:
        with open(b"%b/%b" % (os.fsencode(published), file.path), "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.entry.sha256
    except OSError:
        return False


def _has_attributes(file: Large, published: Path) -> bool:
    """Whether a file of that size, mode and owner is published."""
    try:
        found = os.lstat(b"%b/%b" % (os.fsencode(published), file.path))
    except OSError:
        return False
    entry = file.entry
    have = (found.st_size, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    wished = (entry.size, entry.mode, entry.uid, entry.gid)
    return stat.S_ISREG(found.st_mode) and have == wished


def _chunks(published: Path, path: bytes) -> str | None:
    """A published file's chunks, as a graft names them; None where it is one object."""
    real = b"%b/%b" % (os.fsencode(published), path)
    try:
        parts = [row.split(",") for row in _rows(real)]
        if len(parts) < 2:
            return None
        compression = os.getxattr(real, "user.compression").decode()
    except OSError:
        return None
    # A file in chunks has no object of its own; its checksum is that of none.
    digits, dash, algorithm = parts[0][0].partition("-")
    none = "0" * len(digits) + dash + algorithm
    return (
        f"checksum={none}\ncompression={compression}\n"
        f"chunk_offsets={','.join(part[1] for part in parts)}\n"
        f"chunk_checksums={','.join(part[0] for part in parts)}\n"
    )


def is_in_chunks(path: bytes) -> bool:
    """Whether a published file is stored in chunks, or cannot be asked."""
    try:
        return len(_rows(path)) > 1
    except OSError:
        return True


def _rows(path: bytes) -> list[str]:
    """The list of a file's chunks: ``hash,offset,size``; long ones come in several pages."""
    rows: list[str] = []
    for page in count():
        try:
            content = os.getxattr(path, f"user.chunk_list~{page}")
        except OSError:
            break
        rows += content.decode().split()[1:]
    # Clients that know no pages have everything under the plain name.
    return rows or os.getxattr(path, "user.chunk_list").decode().split()[1:]
