"""The archive that CernVM-FS ingests: what tar readers find in it, and where catalogs begin."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.cvmfs.keeping import Keeping, keeps_name
from duccmake.cvmfs.split import MOST_ENTRIES, nested
from duccmake.errors import RepositoryError
from duccmake.repository.cvmfs import tar_writer
from duccmake.repository.cvmfs.settings import ServerSettings
from duccmake.repository.cvmfs.tar_writer import TarStream, header, link_header
from duccmake.tree.mtree import Entry


def written(work, pieces=None) -> bytes:
    """What ``work`` writes through a pipe; ``pieces`` gets each write's end."""
    reading, writing = os.pipe()
    content = bytearray()

    def read():
        while piece := os.read(reading, 1 << 20):
            content.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    stream = TarStream(lambda content: os.write(writing, content))
    try:
        work(stream)
    finally:
        os.close(writing)
        reader.join()
        os.close(reading)
    return bytes(content)


def members(raw: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(raw), encoding="utf-8", errors="surrogateescape") as found:
        return found.getmembers()


names = st.lists(
    st.binary(min_size=1, max_size=255).filter(
        lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
    ),
    min_size=1,
    max_size=12,
).map(b"/".join)


@settings(deadline=None)
@given(names, names)
def test_names_of_any_bytes_and_length_are_read_back(name, target):
    raw = written(
        lambda stream: (
            stream.add(header(name, tar_writer.SYMLINK, link=target)),
            stream.add(link_header(name, target)),
            stream.close(),
        )
    )
    for member in members(raw):
        assert os.fsencode(member.name) == name.rstrip(b"/")
        assert os.fsencode(member.linkname) == target


@pytest.mark.parametrize("length", [1, 99, 100, 101, 155, 156, 255, 256, 257, 3000])
def test_names_at_the_edges_of_the_fields_are_read_back(length):
    for name in (b"n" * length, (b"d/" * length)[: length - 1] + b"n"):
        raw = written(lambda s, name=name: (s.add(header(name, tar_writer.FIFO)), s.close()))
        assert [os.fsencode(member.name) for member in members(raw)] == [name]


@settings(deadline=None)
@given(
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
    st.integers(-(2**40), 2**40),
    st.integers(0, 255),
)
def test_numbers_of_any_size_are_read_back(mode, owner, seconds, minor):
    raw = written(
        lambda stream: (
            stream.add(
                header(
                    b"device",
                    tar_writer.CHAR,
                    mode=mode,
                    uid=owner,
                    gid=owner,
                    mtime_ns=seconds * 10**9,
                    device=(5, minor),
                )
            ),
            stream.close(),
        )
    )
    [member] = members(raw)
    assert (member.mode, member.uid, member.gid, member.mtime) == (mode, owner, owner, seconds)
    assert (member.devmajor, member.devminor) == (5, minor)


def test_what_was_written_never_ends_where_an_archive_could(tmp_path: Path, monkeypatch):
    """Whoever dies leaves a truncated archive, wherever that was."""
    ends = []
    real = TarStream._write

    def noted(self, content):
        real(self, content)
        ends.append(self._written)

    monkeypatch.setattr(TarStream, "_write", noted)
    monkeypatch.setattr(tar_writer, "_PIECE", 1000)
    big = tmp_path / "big"
    big.write_bytes(os.urandom(300_000))

    def work(stream):
        for number in range(40):
            stream.add_file(header(b"f%d" % number, tar_writer.FILE, size=number), b"x" * number)
        descriptor = os.open(big, os.O_RDONLY)
        stream.add_open(header(b"big", tar_writer.FILE, size=300_000), descriptor, 300_000)
        os.close(descriptor)
        stream.close()

    raw = written(work)
    assert len(ends) > 10
    assert all(end % 512 for end in ends[:-1])
    assert ends[-1] == len(raw)
    assert len(members(raw)) == 41


@pytest.mark.parametrize("size", [3, 300_000])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_than_announced_is_refused(tmp_path: Path, size, change):
    file = tmp_path / "file"
    file.write_bytes(bytes(size + change))
    descriptor = os.open(file, os.O_RDONLY)
    with pytest.raises(RepositoryError, match="another size"):
        written(lambda s: s.add_open(header(b"f", tar_writer.FILE, size=size), descriptor, size))
    os.close(descriptor)


def test_a_small_tree_has_no_further_catalogs():
    assert nested([(b".", 10), (b"usr", MOST_ENTRIES - 20)]) == []


def test_a_large_tree_is_split_where_catalogs_become_small_enough():
    tree = [(b".", 10), (b"opt", 5), (b"opt/a", 100_000), (b"opt/b", 90_000), (b"usr", 70_000)]
    # Which leaves opt/b in the catalog of opt, and usr in that of the root.
    assert nested(tree) == [b"opt/a", b"opt"]


def test_a_directory_of_too_many_files_gets_a_catalog_of_its_own():
    tree = [(b".", 10), (b"data", 3), (b"data/all", 400_000)]
    assert nested(tree) == [b"data/all"]


def test_directories_of_few_entries_never_begin_catalogs():
    tree = [(b".", 1), *((b"d%d" % number, 999) for number in range(400))]
    assert nested(tree) == []


@pytest.mark.parametrize(
    ("path", "kind", "kept"),
    [
        (b"usr/.cvmfscatalog", b"file", False),
        (b"usr/.cvmfscatalog", b"link", False),
        (b"usr/.cvmfscatalog", b"dir", False),
        (b"usr/.cvmfscatalog/below", b"file", False),
        (b"usr/.cvmfsbundles", b"file", False),
        (b"usr/.cvmfsdirtab", b"file", True),
        (b"usr/.cvmfsgraft-x", b"file", True),
        (b"usr/.wh.x", b"file", True),
    ],
)
def test_names_that_are_cernvmfs_own_are_left_out(path, kind, kept):
    entry = Entry(path, kind)
    assert keeps_name(path) == kept
    assert (b"lost:names" in Keeping.ingested().relabelled(entry).flags) == (not kept)


def test_what_is_lost_is_what_cernvmfs_loses_and_not_what_staging_lost():
    entry = Entry(
        b"f",
        b"file",
        mtime_ns=1_500_000_000,
        hardlink=b"g",
        xattrs=((b"security.capability", b"x"),),
        flags=frozenset({b"lost:owners"}),
    )
    flags = Keeping.ingested().relabelled(entry).flags
    assert flags == {b"lost:xattrs", b"lost:hardlinks", b"lost:mtimes"}
    assert b"lost:mtimes" not in Keeping.ingested(nanoseconds=True).relabelled(entry).flags


def test_settings_are_read_as_the_shell_has_them(tmp_path: Path):
    config = tmp_path / "repo.example.org/server.conf"
    config.parent.mkdir()
    config.write_text(
        "# a comment\nCVMFS_USER='someone'\nexport CVMFS_SPOOL_DIR=\"/spool/here\"  # why\n"
        "CVMFS_UPSTREAM_STORAGE=gw,/srv,http://gw:4929/api/v1\nCVMFS_MAX_CHUNK_SIZE=99\nodd (\n"
    )
    found = ServerSettings.read("repo.example.org", tmp_path)
    assert (found.owner, found.spool, found.gateway, found.max_chunk) == (
        "someone",
        Path("/spool/here"),
        True,
        99,
    )
    assert found.union == Path("/cvmfs/repo.example.org")
    with pytest.raises(RepositoryError, match=r"cvmfs_server mkfs other\.example\.org"):
        ServerSettings.read("other.example.org", tmp_path)
