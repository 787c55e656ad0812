"""A revision as a client's mount shows it: a directory that is made of its catalogs."""

import errno
import hashlib
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from chunks import say_chunks
from repository import give, special

from duccmake.cvmfs.revision import Revision
from duccmake.cvmfs.rows import unpack_xattrs

_NANOSECONDS = 1_000_000_000


class Shown:
    """Makes directories of revisions; ``cache`` has the files that were made for others."""

    def __init__(self, cache: Path):
        self._cache = os.fsencode(cache)
        cache.mkdir(parents=True, exist_ok=True)

    def make(self, revision: Revision, tree: Path):
        """Make the directory ``tree``, which has its name once it is whole."""
        made = tree.with_name(f".new-{os.getpid()}-{tree.name}")
        shutil.rmtree(made, ignore_errors=True)
        base = os.fsencode(made)
        os.mkdir(base, 0o700)
        directories = [(base, revision.catalog(b"").row(b""))]
        for path, row in revision.walk(b""):
            at = base + path
            if row.is_directory:
                os.mkdir(at, 0o700)
                directories.append((at, row))
            elif row.is_link:
                os.symlink(row.symlink, at)
                _attributes(at, row)
            elif row.is_file:
                self._file(revision, path, row, at)
            else:
                kind = stat.S_IFMT(row.mode)
                device = row.size if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
                if special(at, kind | 0o600, device):
                    _attributes(at, row)
        for at, row in reversed(directories):
            _attributes(at, row)
        try:
            made.rename(tree)
        except OSError:  # somebody was faster
            shutil.rmtree(made, ignore_errors=True)
            if not tree.is_dir():
                raise

    def _file(self, revision, path, row, at):
        content = revision.catalog(path.rpartition(b"/")[0]).content(row)
        what = (content, row.mode, row.uid, row.gid, row.mtime, row.mtimens, row.xattr)
        key = hashlib.sha1(repr(what).encode(), usedforsecurity=False).hexdigest()
        kept = os.path.join(self._cache, key.encode())
        if not os.path.exists(kept):
            new = b"%b.%d" % (kept, os.getpid())
            with open(new, "wb") as out:
                out.writelines(revision.content_pieces(content))
            if content.chunks:
                say_chunks(
                    new, [(each.hash.hex(), each.offset, each.size) for each in content.chunks]
                )
            _attributes(new, row)
            os.rename(new, kept)
        try:
            os.link(kept, at)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            shutil.copy2(kept, at)
            _attributes(at, row)


def _attributes(at, row):
    link = stat.S_ISLNK(row.mode)
    give(at, row.uid, row.gid)
    if not link:
        for name, value in unpack_xattrs(row.xattr):
            with suppress(OSError):  # trusted ones are root's, and some file systems have none
                os.setxattr(at, name, value)
        os.chmod(at, stat.S_IMODE(row.mode))
    ns = row.mtime * _NANOSECONDS + (row.mtimens or 0)
    with suppress(OverflowError, OSError):
        os.utime(at, ns=(ns, ns), follow_symlinks=False)
