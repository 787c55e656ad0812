"""What a layer may cost: whatever it makes counts, be it in the archive or not."""

from __future__ import annotations

import gzip
import itertools
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.streams import END, SPARSE_FORMATS, gnu_tar, header, long_name, member
from duccmake.cvmfs.codec import Codec
from duccmake.cvmfs.keeping import Keeping
from duccmake.errors import LimitExceeded
from duccmake.layer.catalogs import CatalogForm
from duccmake.layer.limits import Account, UnpackLimits
from duccmake.layer.unpack import unpack_layer
from support.pipeline import digest_of

MIB = 1024 * 1024
GRACE = 100 * MIB
BOTH = pytest.mark.parametrize("catalogs", [False, True])


def unpack(tar: bytes, base: Path, *, catalogs: bool = False, **limits: float) -> int:
    """Unpack an archive; returns the size of its blob."""
    blob = gzip.compress(tar)
    base.mkdir(exist_ok=True)
    (base / "blob").write_bytes(blob)
    unpack_layer(
        base / "blob",
        base,
        digest=digest_of(blob),
        catalogs=CatalogForm(b"/l", Keeping(), Codec()) if catalogs else None,
        limits=UnpackLimits(**limits),  # type: ignore[arg-type]
    )
    return len(blob)


def sparse(base: Path, form: str, hole: int, content: bytes = b"x") -> bytes:
    """An archive of a file that is a hole with some content behind it."""
    source = base / "source"
    source.mkdir(exist_ok=True)
    with (source / "sparse").open("wb") as out:
        out.seek(hole)
        out.write(content)
    return gnu_tar(source, "--sparse", *SPARSE_FORMATS[form])


def deep(files: bytes, *, levels: int = 40, long: int = 100) -> bytes:
    """``files`` behind a directory with a path of more than levels times long bytes, called s."""
    tar = b""
    for level in range(levels):
        tar += header(b"s/" * (level > 0) + b"d" * long, kind=b"5", mode=0o755)
        path = b"/".join([b"d" * long] * (level + 1))
        tar += long_link(path) + header(b"s", kind=b"2")
    return tar + files


def long_link(target: bytes) -> bytes:
    return member(b"././@LongLink", target + b"\0", kind=b"K", magic=b"ustar  \0")


# --- what is made without being in the archive -----------------------------


@BOTH
@pytest.mark.parametrize("form", SPARSE_FORMATS)
def test_a_hole_counts_for_the_ratio(form, catalogs, tmp_path):
    tar = sparse(tmp_path, form, 20 * 1024**3)
    with pytest.raises(LimitExceeded, match=r"limits\.ratio") as caught:
        unpack(tar, tmp_path / "out", catalogs=catalogs)
    assert f"({len(gzip.compress(tar))} bytes)" in str(caught.value)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"blob"}


def test_holes_and_content_count_together(tmp_path):
    tar = sparse(tmp_path, "pax-1.0", 6 * MIB) + member(b"zeros", bytes(6 * MIB)) + END
    unpack(tar, tmp_path / "enough", bytes=13 * MIB)
    with pytest.raises(LimitExceeded, match=r"limits\.bytes"):
        unpack(tar, tmp_path / "out", bytes=11 * MIB)


@pytest.mark.parametrize("first", ["hole", "content"])
def test_the_whole_blob_counts_for_the_ratio_wherever_a_hole_is(first, tmp_path):
    hole, content = sparse(tmp_path, "pax-1.0", 2 * GRACE), member(b"content", os.urandom(2 * MIB))
    tar = hole.rstrip(b"\0") + bytes(-len(hole.rstrip(b"\0")) % 512)
    tar = tar + content if first == "hole" else content + tar
    unpack(tar + END, tmp_path / "out", ratio=2 * GRACE / (2 * MIB) + 2)
    with pytest.raises(LimitExceeded, match=r"limits\.ratio"):
        unpack(tar + END, tmp_path / "more", ratio=2 * GRACE / (2 * MIB) - 2)


@BOTH
def test_time_is_limited_while_the_zeros_of_a_hole_are_hashed(catalogs, tmp_path, monkeypatch):
    tar = sparse(tmp_path, "gnu", 1024 * MIB)
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(LimitExceeded, match=r"limits\.seconds"):
        unpack(tar, tmp_path / "out", catalogs=catalogs, ratio=0, seconds=200)


@BOTH
def test_directories_that_an_archive_needs_are_entries(catalogs, tmp_path):
    tar = b"".join(member(b"d%d/e/f/x" % n) for n in range(5)) + END
    unpack(tar, tmp_path / "enough", catalogs=catalogs, entries=20)
    with pytest.raises(LimitExceeded, match=r"limits\.entries"):
        unpack(tar, tmp_path / "out", catalogs=catalogs, entries=19)


@BOTH
@pytest.mark.parametrize("kind", [b"1", b"2", b"5", b"6"])
def test_links_and_all_that_has_no_content_are_entries(kind, catalogs, tmp_path):
    links = b"".join(header(b"l%d" % n, kind=kind, target=b"x") for n in range(9))
    tar = member(b"x", b"x") + links + END
    unpack(tar, tmp_path / "enough", catalogs=catalogs, entries=10)
    with pytest.raises(LimitExceeded, match=r"limits\.entries"):
        unpack(tar, tmp_path / "out", catalogs=catalogs, entries=9)


@BOTH
def test_a_path_is_as_long_as_it_is_behind_symlinks(catalogs, tmp_path):
    tar = deep(member(b"s/" + b"x" * 20)) + END
    unpack(tar, tmp_path / "enough", catalogs=catalogs, path_bytes=40 * 101 + 20)
    for short in (40 * 101 + 19, 1000):
        with pytest.raises(LimitExceeded, match=rf"more than {short}; raise limits\.path_bytes"):
            unpack(tar, tmp_path / "out", catalogs=catalogs, path_bytes=short)


@BOTH
def test_what_a_manifest_says_of_short_names_behind_a_long_path_counts(catalogs, tmp_path):
    links = b"".join(header(b"s/%d" % n, kind=b"1", target=b"s/x") for n in range(1000))
    tar = deep(member(b"s/x", b"x") + links) + END
    assert len(tar) < MIB
    unpack(tar, tmp_path / "enough", catalogs=catalogs, bytes=11 * MIB)
    manifest = tmp_path / "enough" / "layer" / ".metadata" / "tree.mtree"
    assert manifest.stat().st_size > 8 * MIB
    with pytest.raises(LimitExceeded, match=r"limits\.bytes"):
        unpack(tar, tmp_path / "out", catalogs=catalogs, bytes=8 * MIB)


def test_headers_of_one_entry_and_of_none_are_limited(tmp_path):
    tar = long_name(b"/".join([b"n" * 99] * 30)) + member(b"x") + END
    unpack(tar, tmp_path / "enough", header_bytes=3000)
    with pytest.raises(LimitExceeded, match=r"limits\.header_bytes"):
        unpack(tar, tmp_path / "out", header_bytes=2999)
    empty = member(b"././@LongLink", kind=b"L", magic=b"ustar  \0") * 5000
    with pytest.raises(LimitExceeded, match=r"limits\.bytes"):
        unpack(empty + member(b"x") + END, tmp_path / "out", bytes=MIB)


# --- the account -----------------------------------------------------------

COSTS = st.lists(st.tuples(st.sampled_from(["read", "made"]), st.integers(0, 3 * GRACE)))


@settings(deadline=None)
@given(COSTS, st.integers(1, 6 * GRACE), st.integers(0, 10**6), st.integers(1, 300))
def test_bytes_count_together_wherever_they_come_from(costs, most, blob, ratio):
    """Over the limits is who is over them in sum, in whatever order."""
    total = sum(count for _, count in costs)
    beyond = total > most or (blob > 0 and total > max(GRACE, ratio * blob))
    account = Account(UnpackLimits(bytes=most, ratio=ratio, seconds=0), blob)
    try:
        for kind, count in costs:
            getattr(account, kind)(count)
    except LimitExceeded:
        assert beyond
    else:
        assert not beyond


def test_nothing_is_limited_where_limits_are_zero():
    account = Account(UnpackLimits(bytes=0, entries=0, ratio=0, seconds=0), 1)
    account.read(10**18)
    account.made(10**18)
    account.entry()
    account.check_time()
