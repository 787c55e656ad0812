"""Layers as objects and catalogs: every byte comes back, and nothing else is staged."""

from __future__ import annotations

import hashlib
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.archives import archive, random_archive
from corpus.streams import SPARSE_FORMATS, gnu_tar
from duccmake.cvmfs import split
from duccmake.cvmfs.catalog import CatalogFile
from duccmake.cvmfs.codec import Codec
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import CHUNK, CHUNK_ABOVE, Objects, names_of
from duccmake.errors import LayerError, RepositoryError
from duccmake.layer.catalogs import CATALOG, OBJECTS, CatalogForm, StagedCatalogs
from duccmake.layer.compressors import Compressors
from duccmake.layer.unpack import unpack_layer
from duccmake.tree import mtree
from support.pipeline import digest_of

AT = b"/.layers/ab/abcd/layerfs"


def unpacked(
    place: Path, content: bytes, keeping: Keeping | None = None, *, salt: str = ""
) -> Path:
    """Where a layer is staged with its catalogs."""
    place.mkdir(exist_ok=True)
    (place / "blob").write_bytes(content)
    form = CatalogForm(AT, keeping or Keeping(), Codec(), salt)
    blob = place / "blob"
    return unpack_layer(blob, place / "stage", digest=digest_of(content), catalogs=form).path


def files(layer: Path) -> dict[bytes, mtree.Entry]:
    """The files of a staged layer's own, by path."""
    found = mtree.read(layer / ".metadata" / "tree.mtree")
    return {
        entry.path: entry
        for entry in found
        if entry.kind == mtree.FILE and b"lower" not in entry.flags
    }


def content_of(layer: Path) -> dict[bytes, bytes]:
    """What each file has in it, read back by the layer's catalogs."""
    staged = StagedCatalogs.read(layer)
    contents = staged.contents()
    return {path: b"".join(staged.objects.pieces(contents.of(path))) for path in files(layer)}


def needed(layer: Path) -> set[str]:
    """The objects that the layer's catalogs and its published manifest need, and the catalogs."""
    staged = StagedCatalogs.read(layer)
    found = set(names_of(staged.manifest))
    waiting = [staged.tree.hash.hex()]
    while waiting:
        name = waiting.pop() + Kind.CATALOG
        found.add(name)
        with CatalogFile.read(staged.objects.get(name)) as catalog:
            for content in catalog.contents().values():
                found.update(names_of(content))
            waiting += [below.hash for below in catalog.nested().values()]
    return found


def assert_whole(layer: Path) -> None:
    entries = files(layer)
    for path, content in content_of(layer).items():
        assert hashlib.sha256(content).hexdigest() == entries[path].sha256, path
        assert len(content) == entries[path].size
    there = {path.name for path in (layer / OBJECTS).iterdir()}
    assert there == needed(layer)


@pytest.mark.parametrize("seed", range(8))
def test_random_layers_come_out_with_every_byte_and_nothing_else(tmp_path: Path, seed: int) -> None:
    blob = random_archive(seed)
    layer = unpacked(tmp_path / "catalogs", blob, Keeping(hard_links=bool(seed % 2)))
    assert_whole(layer)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/blob").write_bytes(blob)
    tree = unpack_layer(tmp_path / "tree/blob", tmp_path / "tree", digest=digest_of(blob)).path
    for path, content in content_of(layer).items():
        assert (tree / "layerfs" / os.fsdecode(path)).read_bytes() == content


@pytest.mark.parametrize(
    "size", [CHUNK - 1, CHUNK, CHUNK_ABOVE, CHUNK_ABOVE + 1, 3 * CHUNK, 3 * CHUNK + 1]
)
def test_large_files_are_staged_in_chunks(tmp_path: Path, size: int) -> None:
    noise = os.urandom(1_000_003)
    content = (noise * (size // len(noise) + 1))[:size]
    layer = unpacked(tmp_path, archive([("a", content, {}), ("b", b"small", {})]))
    assert_whole(layer)
    found = StagedCatalogs.read(layer).contents().of(b"a")
    assert len(found.chunks) == (-(-size // CHUNK) if size > CHUNK_ABOVE else 0)


@pytest.mark.parametrize("name", sorted(SPARSE_FORMATS))
def test_holes_of_sparse_files_are_zeros(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for size, offsets in ((CHUNK_ABOVE + 9, (0, CHUNK - 5000, CHUNK_ABOVE)), (500_000, (70_000,))):
        with (source / f"{size}").open("wb") as file:
            for offset in offsets:
                file.seek(offset)
                file.write(os.urandom(9))
            file.truncate(size)
    layer = unpacked(tmp_path, gnu_tar(source, "--sparse", *SPARSE_FORMATS[name]))
    assert_whole(layer)
    assert content_of(layer) == {
        os.fsencode(path.name): path.read_bytes() for path in source.iterdir()
    }


def test_a_file_that_is_one_hole_of_several_chunks_is_stored_once(tmp_path: Path) -> None:
    size = 4 * CHUNK
    map_ = "0\n"
    more = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "hole",
        "GNU.sparse.realsize": str(size),
    }
    content = map_.encode().ljust(512, b"\0")
    layer = unpacked(tmp_path, archive([("hole", content, {"pax_headers": more})]))
    assert_whole(layer)
    found = StagedCatalogs.read(layer).contents().of(b"hole")
    assert len(found.chunks) == 4
    assert len({chunk.hash for chunk in found.chunks}) == 1


def test_an_empty_file_with_attributes_has_an_object(tmp_path: Path) -> None:
    more = {"pax_headers": {"SCHILY.xattr.user.key": "value"}}
    layer = unpacked(tmp_path, archive([("empty", b"", more)]))
    assert_whole(layer)
    assert content_of(layer) == {b"empty": b""}


@pytest.mark.parametrize("size", [10, 300_000, CHUNK_ABOVE + 5])
def test_what_a_layer_replaces_is_not_staged_unless_another_file_has_it(
    tmp_path: Path, size: int
) -> None:
    old, new = os.urandom(size), os.urandom(size)
    once = unpacked(tmp_path / "once", archive([("a", old, {}), ("a", new, {})]))
    assert_whole(once)
    members = [("a", old, {}), ("b", old, {}), ("a", new, {})]
    kept = unpacked(tmp_path / "kept", archive(members))
    assert_whole(kept)
    assert content_of(kept) == {b"a": new, b"b": old}


def test_hard_links_have_one_content(tmp_path: Path) -> None:
    link = {"type": tarfile.LNKTYPE, "linkname": "d/a"}
    members = [("d/a", b"content", {}), ("d/b", b"", link), ("c", b"", link), ("d/a", b"new", {})]
    layer = unpacked(tmp_path, archive(members), Keeping(hard_links=True))
    assert_whole(layer)
    assert content_of(layer) == {b"d/a": b"new", b"d/b": b"content", b"c": b"content"}


def test_what_cannot_be_published_is_not_staged_and_markers_keep_their_object(
    tmp_path: Path,
) -> None:
    members = [("d/.cvmfscatalog", b"", {}), ("d/.cvmfsbundles", b"not published", {})]
    layer = unpacked(tmp_path, archive(members))
    there = {path.name for path in (layer / OBJECTS).iterdir()}
    assert there == needed(layer)
    assert StagedCatalogs.read(layer).tree.losses == {"names": 2}


def test_many_entries_are_in_nested_catalogs_and_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "MOST_ENTRIES", 2_000)
    members = [(f"{n // 1500}/{n}", b"%d" % (n % 50), {}) for n in range(6_000)]
    layer = unpacked(tmp_path, archive(members))
    assert StagedCatalogs.read(layer).tree.catalogs > 1
    assert_whole(layer)


def test_the_published_manifest_says_what_is_lost(tmp_path: Path) -> None:
    more = {"pax_headers": {"SCHILY.xattr.user.long": "x" * 300}, "mtime": 1.5}
    layer = unpacked(tmp_path, archive([("a", b"content", more)]))
    staged = StagedCatalogs.read(layer)
    published = b"".join(staged.objects.pieces(staged.manifest))
    assert b"lost:xattrs" in published
    assert b"lost:mtimes" in published
    assert published.startswith(mtree.FORMAT)
    assert b"lost:" not in (layer / ".metadata/tree.mtree").read_bytes()


def test_the_same_layer_is_staged_alike_but_for_the_salt(tmp_path: Path) -> None:
    blob = random_archive(3)

    def staged(name: str, salt: str) -> dict[str, bytes]:
        layer = unpacked(tmp_path / name, blob, salt=salt)
        return {path.name: path.read_bytes() for path in (layer / OBJECTS).iterdir()}

    once, again, other = staged("a", "one"), staged("b", "one"), staged("c", "two")
    assert once == again
    assert {name for name in once.keys() ^ other.keys() if not name.endswith("C")} == set()
    assert once.keys() != other.keys()


def test_a_catalog_file_that_is_damaged_is_told(tmp_path: Path) -> None:
    layer = unpacked(tmp_path, archive([("a", b"content", {})]))
    with pytest.raises(FileNotFoundError):
        StagedCatalogs.read(tmp_path)
    for damaged in (b"", b"[]", b"{}", b'{"format": 99}'):
        (layer / CATALOG).write_bytes(damaged)
        with pytest.raises(RepositoryError, match=r"catalog\.json"):
            StagedCatalogs.read(layer)


# --- faults ------------------------------------------------------------------


def test_a_process_that_is_killed_fails_the_layer_and_nothing_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Compressors.begin

    def killing(self: Compressors, size: int) -> None:
        begin(self, size)
        os.kill(self._open.pid, signal.SIGKILL)

    monkeypatch.setattr(Compressors, "begin", killing)
    with pytest.raises(LayerError, match="run again"):
        unpacked(tmp_path, archive([("a", os.urandom(CHUNK), {})]))
    assert list((tmp_path / "stage").iterdir()) == []


@pytest.mark.parametrize("calls", [0, 1, 7])
def test_a_write_that_fails_fails_the_layer_and_nothing_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    real: Callable[..., bytes] = Objects.put

    def failing(self: Objects, content: bytes, kind: Kind = Kind.FILE) -> bytes:
        if len(self.names) >= calls:
            raise OSError(5, "Input/output error", "object")
        return real(self, content, kind)

    monkeypatch.setattr(Objects, "put", failing)
    members = [(f"f{n}", os.urandom(100), {}) for n in range(50)]
    with pytest.raises(LayerError, match="Input/output error"):
        unpacked(tmp_path, archive(members))
    assert list((tmp_path / "stage").iterdir()) == []
