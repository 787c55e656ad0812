from __future__ import annotations

import io
import shutil
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.images import CASES
from duccmake.errors import RepositoryError
from duccmake.tree import mtree
from duccmake.tree.mtree import Entry
from support import pipeline
from support.oracles import needs_root

needs_mtree = pytest.mark.skipif(not shutil.which("mtree"), reason="needs mtree (mtree-netbsd)")
needs_bsdtar = pytest.mark.skipif(not shutil.which("bsdtar"), reason="needs bsdtar")

_raw = st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw)
_names = _raw.map(lambda raw: raw.replace(b"/", b"_")).filter(lambda n: n not in (b".", b".."))
_paths = st.lists(_names, min_size=1, max_size=4).map(b"/".join)
_ids = st.integers(0, 2**32 - 2)
_xattrs = st.dictionaries(_raw, st.binary(max_size=50), max_size=3)
_common = {
    "path": _paths,
    "mode": st.integers(0, 0o7777),
    "uid": _ids,
    "gid": _ids,
    "mtime_ns": st.integers(-(10**20), 10**20),
    "xattrs": _xattrs.map(lambda found: tuple(sorted(found.items()))),
    "hardlink": st.one_of(st.just(b""), _paths),
    "layer": st.one_of(st.none(), st.integers(0, 200)),
    "source": st.one_of(st.just(b""), _paths),
    "flags": st.frozensets(
        st.sampled_from([b"lower", b"generated", b"lost:xattrs", b"lost:mtimes"]), max_size=2
    ),
}
_entries = st.one_of(
    st.builds(
        Entry,
        kind=st.just(mtree.FILE),
        size=st.integers(0, 2**62),
        sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
        **_common,
    ),
    st.builds(Entry, kind=st.sampled_from([mtree.DIR, mtree.FIFO, mtree.SOCKET]), **_common),
    st.builds(Entry, kind=st.just(mtree.LINK), target=_raw, **_common),
    st.builds(
        Entry,
        kind=st.sampled_from([mtree.CHAR, mtree.BLOCK]),
        device=st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1)),
        **_common,
    ),
)


@given(_entries)
def test_every_entry_comes_back_from_its_line(entry):
    line = entry.line()
    assert Entry.parse(line) == entry
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert all(32 <= byte < 127 for byte in line[:-1])


@given(st.binary(max_size=200))
def test_encoding_is_reversible_and_plain(raw):
    text = mtree.encode(raw)
    assert mtree.decode(text) == raw
    assert all(33 <= byte < 127 for byte in text)
    assert not set(b"#*?[]=,\\".replace(b"\\", b"")) & set(text)


@given(st.binary(max_size=100))
def test_rubbish_is_refused_as_such(line):
    try:
        Entry.parse(line)
    except RepositoryError as error:
        assert "tree manifest" in str(error)


@pytest.mark.parametrize(
    ("mtime_ns", "text"),
    [
        (0, b"time=0.000000000"),
        (1, b"time=0.000000001"),
        (-1, b"time=-1.999999999"),
        (-1_500_000_000, b"time=-2.500000000"),
        (1_700_000_000_123_456_789, b"time=1700000000.123456789"),
    ],
)
def test_times_before_the_epoch_are_rounded_down_to_seconds(mtime_ns, text):
    assert mtree.encode_time(mtime_ns) == text


def test_a_manifest_comes_back_from_its_file(tmp_path):
    entries = [
        Entry(b".", mtree.DIR),
        Entry(b"a b", mtree.FILE, size=3, sha256="0" * 64),
        Entry(b"#c", mtree.CHAR, flags=frozenset({b"whiteout"})),
    ]
    mtree.write(tmp_path / "tree.mtree", entries, comments=["layer x"])
    assert list(mtree.read(tmp_path / "tree.mtree")) == entries
    assert (tmp_path / "tree.mtree").read_bytes().startswith(b"#mtree v2.0\n# layer x\n. type=dir")


# --- other readers ---------------------------------------------------------


@needs_root
@needs_mtree
@pytest.mark.parametrize("case", CASES, ids=str)
def test_mtree_finds_published_trees_as_their_manifests_say(case, tmp_path):
    published = pipeline.publish(case.layers, tmp_path)
    pairs = [(published.flat, published.flat_manifest)]
    pairs += zip(published.layers, published.layer_manifests, strict=True)
    for tree, manifest in pairs:
        done = subprocess.run(
            ["mtree", "-f", manifest, "-p", tree], capture_output=True, check=False
        )
        assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)


@needs_root
@needs_mtree
def test_mtree_sees_any_change(tmp_path):
    """The test above could not fail otherwise."""
    case = next(case for case in CASES if case.name == "names-that-are-no-text")
    published = pipeline.publish(case.layers, tmp_path)
    changed = published.flat / "#comment"
    changed.write_text("changed")
    done = subprocess.run(
        ["mtree", "-f", published.flat_manifest, "-p", published.flat],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"#comment" in done.stdout


@needs_root
@needs_bsdtar
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bsdtar_reads_the_manifest_as_the_tree(case, tmp_path):
    published = pipeline.publish(case.layers, tmp_path)
    command = ["bsdtar", "--format=pax", "--options=hdrcharset=BINARY", "-cf", "-"]
    done = subprocess.run(
        [*command, f"@{published.flat_manifest}"],
        cwd=published.flat,
        capture_output=True,
        check=True,
    )
    kinds = {
        "dir": tarfile.DIRTYPE,
        "link": tarfile.SYMTYPE,
        "fifo": tarfile.FIFOTYPE,
        "char": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
    }
    with tarfile.open(
        fileobj=io.BytesIO(done.stdout), encoding="utf-8", errors="surrogateescape"
    ) as archive:
        found = {
            member.name.removeprefix("./").rstrip("/").encode("utf-8", "surrogateescape"): member
            for member in archive
        }
    assert found.keys() == case.tree.keys()
    for path, node in case.tree.items():
        member = found[path]
        if member.islnk():
            assert len(node.group) > 1
            continue
        assert member.type == kinds.get(node.kind, tarfile.REGTYPE), path
        assert (member.uid, member.gid) == (node.uid, node.gid), path
        assert node.kind == "link" or member.mode & 0o7777 == node.mode, path
        assert (member.devmajor, member.devminor) == node.device or node.device > (255, 255), path
        assert member.linkname.encode("utf-8", "surrogateescape") == node.target, path
