"""Changed layers: only duccmake's errors come out, nothing hangs, nothing outside is touched."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from bounds import examples
from hypothesis import event, example, given
from hypothesis import strategies as st
from mutations import ANY_BYTES, MUTATED_TARS, TARS, Mutation, applied

from corpus.streams import SOUND
from duccmake.errors import DuccmakeError
from duccmake.layer.flatten import LayerTree, flatten
from duccmake.layer.limits import UnpackLimits
from duccmake.layer.stream import LayerStream
from duccmake.layer.tar import TarReader
from duccmake.layer.unpack import unpack_layer
from support import trees
from support.images import LayerBuilder
from support.pipeline import digest_of

_LIMITS = UnpackLimits(bytes=50_000_000, entries=10_000, seconds=30)


def _read_members(tar: bytes, step: int) -> object:
    pieces = (tar[at : at + step] for at in range(0, len(tar), step))
    reader = TarReader(pieces, _LIMITS)
    found = []
    try:
        for member in reader:
            content = b"".join(bytes(view) for view in reader.content())
            found.append((member, content))
    except DuccmakeError as error:
        return type(error)
    return found


@examples(300)
@given(MUTATED_TARS, st.sampled_from([1, 100, 512, 700, 5000]))
def test_archives_are_read_or_refused_alike_in_pieces_of_any_size(tar: bytes, step: int):
    whole = _read_members(tar, len(tar) or 1)
    event("refused" if isinstance(whole, type) else "read")
    assert _read_members(tar, step) == whole


def _decompress(blob: bytes) -> bytes | None:
    """What other libraries make of it; None where they refuse."""
    readers: dict[bytes, Callable[[bytes], bytes]] = {
        b"\x1f\x8b": gzip.decompress,
        b"BZh": bz2.decompress,
        b"\xfd7zXZ\0": lzma.decompress,
    }
    for magic, read in readers.items():
        if blob.startswith(magic):
            try:
                return read(blob)
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
                return None
    return blob


def _streamed(blob: bytes) -> bytes | None:
    """The content that a stream has and vouches for; None where it refuses."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(blob)
        file.flush()
        try:
            with LayerStream(Path(file.name), limits=_LIMITS) as stream:
                content = b"".join(stream)
        except DuccmakeError:
            return None
    assert stream.result.diff_ids == (digest_of(content),)
    assert stream.result.blob == digest_of(blob)
    return content


@examples(150)
@given(
    st.sampled_from(TARS[:40]),
    st.sampled_from([name for name in SOUND if not name.startswith("zstd")]),
    st.lists(ANY_BYTES, max_size=3),
)
def test_streams_are_what_other_libraries_make_of_them(
    tar: bytes, compression: str, mutations: list[Mutation]
):
    blob = applied(SOUND[compression](tar), mutations)
    content = _streamed(blob)
    event("refused" if content is None else "read")
    assert content is None or content == _decompress(blob)


@examples(120)
@given(st.sampled_from(TARS[:40]), st.lists(ANY_BYTES, min_size=1, max_size=3), st.booleans())
def test_damaged_zstd_is_refused_or_has_the_right_content(
    tar: bytes, mutations: list[Mutation], skippable: bool
):
    sound = SOUND["zstd-with-a-skippable-frame-between" if skippable else "zstd"](tar)
    blob = applied(sound, mutations)
    content = _streamed(blob)
    # The frames have checksums; what is read of a cut one can only end where a frame does.
    if content is not None and blob[:4] == sound[:4]:
        assert tar.startswith(content)


_LOWER = (
    LayerBuilder()
    .dir("a")
    .file("a/x", "lower")
    .symlink("b", "a")
    .symlink("c", "/canary")
    .symlink("l", "usr/lib")
    .file("d", "a file")
    .layer("none")
)


def _unpacked(blob: bytes, base: Path) -> LayerTree:
    base.mkdir()
    (base / "blob").write_bytes(blob)
    digest = digest_of(blob)
    unpack_layer(base / "blob", base, digest=digest, limits=_LIMITS)
    return LayerTree(digest, (base / "layer" / ".metadata" / "tree.mtree").read_bytes())


@examples(25)
@given(MUTATED_TARS)
def test_layers_are_unpacked_and_flattened_or_refused_and_nothing_else_happens(tar: bytes):
    with tempfile.TemporaryDirectory(prefix="fuzz") as directory:
        base = Path(directory)
        canary = base / "canary"
        canary.mkdir()
        (canary / "x").write_text("x")
        before = trees.snapshot(canary)
        try:
            upper = _unpacked(gzip.compress(tar), base / "upper")
        except DuccmakeError:
            event("refused")
            assert {path.name for path in (base / "upper").iterdir()} == {"blob"}
        else:
            event("unpacked")
            lower = _unpacked(_LOWER.tar, base / "lower")
            try:
                lines = list(flatten([lower, upper]).lines())
            except DuccmakeError:
                event("not flattened")
            else:
                assert len(lines) == len({line.partition(b" ")[0] for line in lines})
        assert trees.differences(before, trees.snapshot(canary)) == []
        assert {path.name for path in base.iterdir()} <= {"canary", "upper", "lower"}


@examples(100)
@example(b"")
@given(st.binary(max_size=3000))
def test_rubbish_is_refused_or_empty(rubbish: bytes):
    found = _read_members(rubbish, 512)
    assert found == [] or isinstance(found, type)
    assert io.BytesIO(rubbish).read().strip(b"\0") == b"" or found != []
