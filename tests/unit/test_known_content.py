"""Content that a repository has already: taken where it is right, and never where it is not."""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from corpus.archives import archive, random_archive
from duccmake.cvmfs.codec import Codec, Level
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.known import KnownContent, KnownContentWriter
from duccmake.cvmfs.names import Kind, hash_of, object_name, storage_path
from duccmake.cvmfs.objects import CHUNK, CHUNK_ABOVE, Objects
from duccmake.cvmfs.rows import Chunk, Content
from duccmake.layer import compressors
from duccmake.layer.catalogs import OBJECTS, CatalogForm, StagedCatalogs
from duccmake.layer.known_objects import Known
from duccmake.layer.unpack import unpack_layer
from duccmake.tree import mtree
from support.pipeline import digest_of

AT = b"/.layers/ab/abcd/layerfs"
STOCK = Codec(Level.SMALL)
"""Makes other objects of the same content, as CernVM-FS' own programs do."""

Contents = Sequence[tuple[str, Content]]


@pytest.fixture
def known(tmp_path: Path) -> Known:
    """An index of a storage, both without anything."""
    return Known(tmp_path / "known.sqlite", tmp_path / "storage")


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[..., Path]:
    """Unpack an archive: where it is staged."""
    numbers = itertools.count()

    def unpack(content: bytes, known: Known | None = None) -> Path:
        place = tmp_path / f"layer-{next(numbers)}"
        place.mkdir()
        (place / "blob").write_bytes(content)
        form = CatalogForm(AT, Keeping(hard_links=True), Codec(), "salt", known)
        return unpack_layer(place / "blob", place, digest=digest_of(content), catalogs=form).path

    return unpack


def sha256(content: bytes) -> str:
    return digest_of(content).hex


def stored(known: Known, content: bytes, size: int = 0) -> Content:
    """Store content as CernVM-FS does, in chunks of that size, if any."""

    def put(piece: bytes, kind: Kind) -> bytes:
        compressed = STOCK.compress(piece)
        path = known.storage / storage_path(object_name(hash_of(compressed), kind))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(compressed)
        return hash_of(compressed)

    if not size:
        return Content(put(content, Kind.FILE), len(content))
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    chunks = [Chunk(n * size, len(each), put(each, Kind.CHUNK)) for n, each in enumerate(pieces)]
    return Content(None, len(content), tuple(chunks))


def enter(known: Known, contents: Contents) -> None:
    with KnownContentWriter(known.index) as index:
        index.enter(b"/place", "catalog", contents)


def found(layer: Path, name: bytes) -> Content:
    return StagedCatalogs.read(layer).contents().of(name)


def object_of(known: Known, content: Content) -> Path:
    assert content.hash is not None
    return known.storage / storage_path(content.hash.hex())


def content_of(layer: Path) -> dict[bytes, bytes]:
    """What each file of a staged layer has in it, and that no other object is staged."""
    staged = StagedCatalogs.read(layer)
    contents = staged.contents()
    needed = contents.objects() | {object_name(hash_of(Codec().compress(b"")), Kind.FILE)}
    there = {path.name for path in (layer / OBJECTS).iterdir()}
    there = {name for name in there if not name.endswith(Kind.CATALOG)}
    manifest = object_name(staged.manifest.hash or b"", Kind.FILE)
    assert there == needed | {manifest}
    return {
        entry.path: b"".join(staged.objects.pieces(contents.of(entry.path)))
        for entry in mtree.read(layer / ".metadata/tree.mtree")
        if entry.kind == mtree.FILE and b"lower" not in entry.flags
    }


# --- what is known is taken ---------------------------------------------------


@pytest.mark.parametrize("size", [1, 5_000, 300_000])
def test_content_that_is_known_is_what_the_repository_has(
    known: Known, unpacked: Callable[..., Path], size: int
) -> None:
    content = os.urandom(size // 2) + b"a" * (size - size // 2)
    here = stored(known, content)
    enter(known, [(sha256(content), here)])
    layer = unpacked(archive([("a", content, {}), ("b", b"unknown", {})]), known)
    assert found(layer, b"a") == here
    assert content_of(layer) == {b"a": content, b"b": b"unknown"}


@pytest.mark.parametrize("size", [CHUNK_ABOVE, CHUNK_ABOVE + 1, 3 * CHUNK])
def test_chunks_of_any_size_are_taken_as_they_are(
    known: Known, unpacked: Callable[..., Path], size: int
) -> None:
    noise = os.urandom(1_000_003)
    content = (noise * (size // len(noise) + 1))[:size]
    here = stored(known, content, 5_000_000)
    enter(known, [(sha256(content), here)])
    layer = unpacked(archive([("a", content, {}), ("b", b"next", {})]), known)
    assert found(layer, b"a") == here
    assert content_of(layer) == {b"a": content, b"b": b"next"}


def test_what_is_of_the_same_size_as_large_content_is_staged_as_ever(
    known: Known, unpacked: Callable[..., Path]
) -> None:
    content = os.urandom(1000) * 20_000
    other = content[:-1] + b"?"
    enter(known, [(sha256(content), stored(known, content, CHUNK))])
    blob = archive([("a", other, {})])
    layer = unpacked(blob, known)
    assert found(layer, b"a") == found(unpacked(blob), b"a")
    assert content_of(layer) == {b"a": other}


def test_names_of_one_file_and_files_of_one_content_have_it_once(
    known: Known, unpacked: Callable[..., Path]
) -> None:
    link = {"type": tarfile.LNKTYPE, "linkname": "a"}
    here = stored(known, b"content")
    enter(known, [(sha256(b"content"), here)])
    members = [
        ("a", b"content", {}),
        ("b", b"", link),
        *((f"c{n}", b"content", {}) for n in range(9)),
    ]
    layer = unpacked(archive(members), known)
    assert {found(layer, name) for name in content_of(layer)} == {here}


def test_what_the_layer_itself_replaces_is_not_staged(
    known: Known, unpacked: Callable[..., Path]
) -> None:
    enter(known, [(sha256(b"old"), stored(known, b"old"))])
    layer = unpacked(archive([("a", b"old", {}), ("a", b"new", {})]), known)
    assert content_of(layer) == {b"a": b"new"}


def test_an_empty_file_needs_no_entry(known: Known, unpacked: Callable[..., Path]) -> None:
    enter(known, [(sha256(b""), stored(known, b""))])
    blob = archive([("a", b"", {})])
    assert found(unpacked(blob, known), b"a") == found(unpacked(blob), b"a")


def test_objects_are_copied_where_they_cannot_be_linked(
    known: Known, unpacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = stored(known, b"content")
    enter(known, [(sha256(b"content"), here)])

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    layer = unpacked(archive([("a", b"content", {})]), known)
    assert found(layer, b"a") == here
    assert content_of(layer) == {b"a": b"content"}


def test_content_is_not_compressed_where_it_is_known(
    known: Known, unpacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{n}": os.urandom(n * 1000) for n in range(1, 40)}
    enter(known, [(sha256(content), stored(known, content)) for content in files.values()])
    put = Objects.put

    def only_others(self: Objects, content: bytes, kind: Kind = Kind.FILE) -> bytes:
        assert bytes(content) not in files.values()
        return put(self, content, kind)

    monkeypatch.setattr(Objects, "put", only_others)
    unpacked(archive([(name, content, {}) for name, content in files.items()]), known)


# --- what is not true is not believed -----------------------------------------


def cut(known: Known, here: Content) -> None:
    path = object_of(known, here)
    path.write_bytes(path.read_bytes()[:-1])


def empty(known: Known, here: Content) -> None:
    object_of(known, here).write_bytes(b"")


def remove(known: Known, here: Content) -> None:
    object_of(known, here).unlink()


def append(known: Known, here: Content) -> None:
    path = object_of(known, here)
    path.write_bytes(path.read_bytes() + b"more")


def exchange(known: Known, here: Content) -> None:
    object_of(known, here).write_bytes(STOCK.compress(b"evil content"))


def compress_otherwise(known: Known, here: Content) -> None:
    """The content is right, but the name is not that of these bytes."""
    object_of(known, here).write_bytes(Codec(Level.FAST).compress(b"some content, some content"))


def lock_away(known: Known, here: Content) -> None:
    path = object_of(known, here)
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil", [cut, empty, remove, append, exchange, compress_otherwise, lock_away]
)
def test_an_object_that_is_not_right_any_more_is_not_taken(
    known: Known, unpacked: Callable[..., Path], spoil: Callable[[Known, Content], None]
) -> None:
    content = b"some content, some content"
    here = stored(known, content)
    enter(known, [(sha256(content), here)])
    spoil(known, here)
    blob = archive([("a", content, {})])
    layer = unpacked(blob, known)
    assert found(layer, b"a") == found(unpacked(blob), b"a")
    assert content_of(layer) == {b"a": content}


def test_chunks_of_which_one_vanishes_leave_nothing_behind(
    known: Known, unpacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(100_000)
    here = stored(known, content, 30_000)
    enter(known, [(sha256(content), here)])
    take = Objects.take

    def collecting(self: Objects, name: str, file: str) -> None:
        if name == object_name(here.chunks[2].hash, Kind.CHUNK):
            Path(file).unlink()
        take(self, name, file)

    monkeypatch.setattr(Objects, "take", collecting)
    layer = unpacked(archive([("a", content, {})]), known)
    assert not found(layer, b"a").chunks
    assert content_of(layer) == {b"a": content}


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_index_says_the_content_is_that_of_the_archive(
    known: Known, unpacked: Callable[..., Path], seed: int
) -> None:
    rng = random.Random(seed)
    blob = random_archive(seed)
    plain = unpacked(blob)
    contents = content_of(plain)
    everything = [*contents.values(), b"other", os.urandom(50)]
    lies: list[tuple[str, Content]] = []
    for content in contents.values():
        told = rng.choice([content, content, rng.choice(everything)])
        size = rng.choice([0, 0, 7, len(told) // 2])
        here = stored(known, told, size if len(told) // 1000 <= size else 0)
        if rng.random() < 0.2 and here.hash:
            rng.choice([cut, empty, remove, append])(known, here)
        if rng.random() < 0.1:
            here = Content(os.urandom(20), len(content))
        lies.append((sha256(content), here))
    enter(known, lies)
    assert content_of(unpacked(blob, known)) == contents


def test_known_content_of_another_repository_is_no_harm(
    known: Known, unpacked: Callable[..., Path], tmp_path: Path
) -> None:
    enter(known, [(sha256(b"content"), stored(known, b"content"))])
    elsewhere = Known(known.index, tmp_path / "another")
    assert content_of(unpacked(archive([("a", b"content", {})]), elsewhere)) == {b"a": b"content"}


# --- the index itself ---------------------------------------------------------


def test_content_that_others_hash_compress_or_keep_otherwise_is_not_entered(known: Known) -> None:
    flags = [1 << 8, 1 << 11, 128]
    odd = [(sha256(b"%d" % flag), Content(b"h" * 20, 9, (), flag)) for flag in flags]
    gap = Content(None, 9, (Chunk(0, 4, b"a" * 20), Chunk(5, 4, b"b" * 20)))
    short = Content(None, 10, (Chunk(0, 4, b"a" * 20), Chunk(4, 5, b"b" * 20)))
    alone = Content(None, 4, (Chunk(0, 4, b"a" * 20),))
    odd += [(sha256(b"gap"), gap), (sha256(b"short"), short), (sha256(b"alone"), alone)]
    odd += [(sha256(b"long"), Content(b"h" * 32, 9))]
    enter(known, [*odd, (sha256(b"right"), Content(b"h" * 20, 9))])
    with KnownContent(known.index) as index:
        assert [index.objects(digest) for digest, _ in odd] == [()] * len(odd)
        assert index.objects(sha256(b"right")) == (b"h" * 20,)


def test_a_place_is_entered_until_another_catalog_is_there(known: Known) -> None:
    enter(known, [])
    with KnownContentWriter(known.index) as index:
        assert index.is_entered(b"/place", "catalog")
        assert not index.is_entered(b"/place", "another")
        assert not index.is_entered(b"/elsewhere", "catalog")


def overwrite(path: Path) -> None:
    path.write_bytes(b"no index" * 1000)


def cut_file(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        for at in range(4096, path.stat().st_size, 4096):
            file.seek(at)
            file.write(os.urandom(200))


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE known (a TEXT, b TEXT)")


def without_a_table(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE large")


def of_other_types(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE known SET objects=17")


DAMAGES = [
    overwrite,
    cut_file,
    scribble,
    of_another_program,
    without_a_table,
    of_other_types,
    Path.unlink,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_knows_nothing_and_is_begun_anew(
    known: Known, unpacked: Callable[..., Path], damage: Callable[[Path], None]
) -> None:
    files = {f"{n}": b"content %d" % n for n in range(500)}
    files["large"] = bytes(CHUNK_ABOVE + 1)
    contents = [(sha256(content), stored(known, content)) for content in files.values()]
    enter(known, contents)
    damage(known.index)
    blob = archive([(name, content, {}) for name, content in files.items()])
    expected = {name.encode(): content for name, content in files.items()}
    assert content_of(unpacked(blob, known)) == expected
    # Damage deep inside is found when something is entered; by then it is gone.
    for _ in range(2):
        try:
            enter(known, contents)
        except Exception as error:
            assert "remove it" in str(error)
    layer = unpacked(blob, known)
    assert content_of(layer) == expected
    assert found(layer, b"7") == dict(contents)[sha256(b"content 7")]


def test_entering_while_others_look_something_up_disturbs_nobody(
    known: Known, unpacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{n}": b"content %d" % n for n in range(3000)}
    contents = [(sha256(content), stored(known, content)) for content in files.values()]
    enter(known, contents[::2])
    made = compressors.Compressors.whole
    turn = itertools.count()

    def whole(self: compressors.Compressors, *arguments: object) -> None:
        if next(turn) % 500 == 0:
            enter(known, contents[next(turn) % 2 :: 2])
        made(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compressors.Compressors, "whole", whole)
    blob = archive([(name, content, {}) for name, content in files.items()])
    expected = {name.encode(): content for name, content in files.items()}
    assert content_of(unpacked(blob, known)) == expected
