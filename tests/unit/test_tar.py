from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from corpus.streams import (
    BLOCK,
    END,
    SPARSE_FORMATS,
    checked,
    flipped,
    gnu_tar,
    header,
    long_name,
    member,
    padded,
    pax,
    record,
)
from duccmake.errors import CorruptLayer, DuccmakeError, LimitExceeded, UnsafeLayer
from duccmake.layer.limits import UnpackLimits
from duccmake.layer.tar import HARDLINK, TarReader
from duccmake.tree.mtree import BLOCK as BLOCK_DEVICE
from duccmake.tree.mtree import CHAR, DIR, FIFO, FILE, LINK


def read(tar, *, step=0, **limits):
    """All members with their stored content, the archive coming in pieces of ``step`` bytes."""
    step = step or len(tar) or 1
    pieces = (tar[at : at + step] for at in range(0, len(tar), step))
    return [
        (each, b"".join(bytes(view) for view in reader.content()))
        for reader in [TarReader(pieces, UnpackLimits(**limits))]
        for each in reader
    ]


def one(tar, **limits):
    ((found, content),) = read(tar + END, **limits)
    return found, content


def sparse_content(found, content):
    """The file that a sparse member is."""
    whole = bytearray(found.size)
    at = 0
    for offset, length in found.extents:
        whole[offset : offset + length] = content[at : at + length]
        at += length
    return bytes(whole)


# --- dialects --------------------------------------------------------------


def test_ustar_splits_long_names_in_prefix_and_name():
    found, _ = one(header(b"name", tail=b"some/prefix"))
    assert found.name == b"some/prefix/name"


def test_gnu_header_has_no_prefix_but_times_there():
    found, _ = one(header(b"name", magic=b"ustar  \0", tail=b"14523456701\x0014523456701\0"))
    assert found.name == b"name"


def test_v7_header_has_no_magic_and_its_directories_end_in_a_slash():
    tar = header(b"dir/", kind=b"\0", magic=bytes(8)) + member(
        b"dir/file", b"x", kind=b"\0", magic=bytes(8)
    )
    found = read(tar + END)
    assert [(each.name, each.kind) for each, _ in found] == [(b"dir/", DIR), (b"dir/file", FILE)]


def test_v7_directory_with_a_size_does_not_shift_what_follows():
    tar = member(b"dir/", b"content of no use", kind=b"\0", magic=bytes(8)) + member(b"x", b"1")
    assert [content for _, content in read(tar + END)][1] == b"1"


def test_gnu_long_name_and_long_target():
    tar = (
        long_name(b"n" * 300)
        + member(b"././@LongLink", b"t" * 400 + b"\0", kind=b"K", magic=b"ustar  \0")
        + header(b"short", kind=b"2", target=b"short")
    )
    found, _ = one(tar)
    assert (found.name, found.target) == (b"n" * 300, b"t" * 400)


def test_long_name_is_for_the_next_member_only():
    found = read(long_name(b"n" * 300) + member(b"a", b"1") + member(b"b", b"2") + END)
    assert [each.name for each, _ in found] == [b"n" * 300, b"b"]


def test_pax_records_replace_the_header_and_a_global_header_is_passed_over():
    tar = pax({b"path": b"global", b"uid": b"1"}, kind=b"g") + pax(
        {
            b"path": b"caf\xc3\xa9/" + b"x" * 200,
            b"uid": b"4294967294",
            b"gid": b"70000",
            b"mtime": b"-1.25",
            b"SCHILY.xattr.user.a": b"\0\n=\xff",
            b"LIBARCHIVE.xattr.user.b%20c": b"AP8",
            b"comment": b"nothing",
        }
    )
    found, content = one(tar + member(b"old", b"x"))
    assert found.name == b"caf\xc3\xa9/" + b"x" * 200
    assert (found.uid, found.gid, found.mtime_ns) == (4294967294, 70000, -1_250_000_000)
    assert found.xattrs == ((b"user.a", b"\0\n=\xff"), (b"user.b c", b"\0\xff"))
    assert content == b"x"


def test_an_empty_pax_record_takes_back_an_earlier_one():
    found, _ = one(pax({b"path": b"first"}) + pax({b"path": b""}) + member(b"own"))
    assert found.name == b"own"


def test_times_are_exact_to_the_nanosecond():
    times = {
        b"0": 0,
        b"-0.5": -500_000_000,
        b"1.000000001": 1_000_000_001,
        b"1.0000000019": 1_000_000_001,
        b"253402300800": 253402300800 * 10**9,
        b"5.": 5 * 10**9,
    }
    for text, wanted in times.items():
        assert one(pax({b"mtime": text}) + member(b"x"))[0].mtime_ns == wanted, text


def test_base_256_numbers():
    found, _ = one(header(b"x", uid=2**31, gid=70_000_000, mtime=-5))
    assert (found.uid, found.gid, found.mtime_ns) == (2**31, 70_000_000, -5_000_000_000)


def test_numbers_with_blanks_and_without_terminators():
    raw = bytearray(header(b"x"))
    raw[100:108] = b"  0755 \0"
    raw[108:116] = b"00000017"
    raw[116:124] = bytes(8)
    found, _ = one(checked(bytes(raw)))
    assert (found.mode, found.uid, found.gid) == (0o755, 0o17, 0)


def test_every_kind_of_member():
    kinds = {b"0": FILE, b"\0": FILE, b"7": FILE, b"1": HARDLINK, b"2": LINK, b"5": DIR, b"6": FIFO}
    for kind, wanted in kinds.items():
        assert one(header(b"x", kind=kind, target=b"t"))[0].kind == wanted
    found, _ = one(header(b"x", kind=b"3", device=(4095, 1048575)))
    assert (found.kind, found.device) == (CHAR, (4095, 1048575))
    found, _ = one(header(b"x", kind=b"4", device=(8, 1)))
    assert (found.kind, found.device) == (BLOCK_DEVICE, (8, 1))


@pytest.mark.parametrize("kind", [b"V", b"M", b"D", b"N", b"A", b"\x01", b"9"])
def test_types_that_no_image_has_are_refused(kind):
    with pytest.raises(UnsafeLayer):
        one(header(b"x", kind=kind))


def test_links_and_directories_with_a_size_have_no_content():
    for kind in (b"1", b"2", b"5"):
        tar = header(b"a", kind=kind, size=700, target=b"t") + member(b"b", b"1")
        assert [each.name for each, _ in read(tar + END)] == [b"a", b"b"]


def test_signed_checksums_of_old_tars_are_right():
    raw = header(b"caf\xe9")
    blank = raw[:148] + b" " * 8 + raw[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blank)
    found, _ = one(raw[:148] + b"%06o\0 " % signed + raw[156:])
    assert found.name == b"caf\xe9"


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513, 1000, 10**6])
def test_pieces_of_any_size_give_the_same(step):
    tar = (
        pax({b"path": b"long" * 50})
        + member(b"x", b"1" * 1000)
        + member(b"empty")
        + member(b"y", b"2" * 512)
        + header(b"d/", kind=b"5")
        + END
    )
    found = read(tar, step=step)
    assert [(each.name, content) for each, content in found] == [
        (b"long" * 50, b"1" * 1000),
        (b"empty", b""),
        (b"y", b"2" * 512),
        (b"d/", b""),
    ]


def test_python_and_gnu_archives_are_read_alike(tmp_path):
    (tmp_path / ("d" * 90)).mkdir()
    long = tmp_path / ("d" * 90) / ("f" * 120)
    long.write_bytes(b"content")
    os.utime(long, ns=(1, 1_700_000_000_123_456_789))
    (tmp_path / "link").symlink_to("t" * 150)
    (tmp_path / "hard").hardlink_to(long)
    for form in ("gnu", "pax", "posix", "oldgnu"):
        tar = gnu_tar(tmp_path, f"--format={form}")
        ours = [
            (each.name.decode().removeprefix("./").rstrip("/"), content)
            for each, content in read(tar)
        ]
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            theirs = [
                (
                    each.name.removeprefix("./").rstrip("/"),
                    archive.extractfile(each).read() if each.isreg() else b"",
                )
                for each in archive
            ]
        assert ours == [("" if name == "." else name, content) for name, content in theirs], form


# --- where archives end ----------------------------------------------------


def test_archive_without_end_blocks_is_whole():
    assert len(read(member(b"x", b"1"))) == 1
    assert len(read(member(b"x", b"1") + bytes(BLOCK))) == 1


@pytest.mark.parametrize("size", [1, 511, 513])
@pytest.mark.parametrize("step", [1, 100, 4096])
def test_a_last_member_whose_block_is_not_filled_up_is_whole(size, step):
    tar = member(b"first", b"1") + member(b"last", b"2" * size)
    cut = tar[: BLOCK * 3 + size]
    for archive in (cut, cut + bytes(1)):
        pieces = (archive[at : at + step] for at in range(0, len(archive), step))
        reader = TarReader(pieces)
        found = [(each.name, b"".join(reader.content())) for each in reader]
        assert found == [(b"first", b"1"), (b"last", b"2" * size)]


def test_empty_archives():
    assert read(b"") == []
    assert read(END) == []
    assert read(bytes(10240)) == []


def test_everything_after_the_end_is_read_but_means_nothing():
    rest = iter([member(b"x", b"1") + END, b"anything", member(b"y", b"2")])
    reader = TarReader(rest)
    assert [each.name for each in reader] == [b"x"]
    assert next(rest, None) is None


def test_a_lone_zero_block_between_members_is_damage():
    with pytest.raises(CorruptLayer):
        read(member(b"x", b"1") + bytes(BLOCK) + member(b"y", b"2") + END)


def test_truncation_at_every_point_is_damage():
    named = pax({b"path": b"name"})
    tar = named + member(b"x", b"1" * 600) + header(b"d", kind=b"5")
    # Docker and podman read a last member whose block is not filled up.
    filling = range(len(named) + BLOCK + 600, len(tar) - BLOCK + 1)
    ends = {0, *filling, len(tar)}
    for cut in range(0, len(tar) + 1, 64):
        if cut in ends:
            read(tar[:cut])
        else:
            with pytest.raises(CorruptLayer):
                read(tar[:cut])


def test_truncated_sparse_maps_are_damage():
    gnu = gnu_sparse([(n * 1024, 512) for n in range(30)], 40_000)
    for cut in (BLOCK, 2 * BLOCK, 2 * BLOCK - 1):
        with pytest.raises(CorruptLayer):
            read(gnu[:cut])


def test_one_wrong_byte_in_any_header_is_damage():
    good = member(b"first", b"1")
    for at in (*range(0, 160, 5), 257, 345, 500):
        for tar in (flipped(good, at), good + flipped(good, at)):
            with pytest.raises(CorruptLayer):
                read(tar + END)


@pytest.mark.parametrize(
    "bad",
    [
        b"9 path=x\n",
        b"8 path=x\n",
        b"11 path=x\n",
        b"10 path=xy",
        b"0 path=x\n",
        b"-9 path=x\n",
        b"x path=x\n",
        b"7 path\n",
        b"5 =x\n",
        b"99999999999 path=x\n",
        b"\n",
        b" ",
        record(b"uid", b"-1"),
        record(b"uid", b"1.5"),
        record(b"uid", "٣".encode()),
        record(b"size", b"9223372036854775808"),
        record(b"size", b"12x"),
        record(b"mtime", b"1e9"),
        record(b"mtime", b"--1"),
        record(b"mtime", b"9" * 30),
        record(b"path", b"a\0b"),
        record(b"linkpath", b"a\0b"),
        record(b"SCHILY.xattr.", b"x"),
        record(b"SCHILY.xattr.a\0b", b"x"),
        record(b"LIBARCHIVE.xattr.user.x", b"!!"),
    ],
)
def test_wrong_extended_headers_are_damage(bad):
    if bad == b"9 path=x\n":
        assert one(member(b"h", bad, kind=b"x") + member(b"y"))[0].name == b"x"
        return
    with pytest.raises(CorruptLayer):
        one(member(b"h", bad, kind=b"x") + member(b"y"))


def test_an_extended_header_without_its_member_is_damage():
    with pytest.raises(CorruptLayer):
        read(pax({b"path": b"x"}) + END)


@pytest.mark.parametrize(
    "raw",
    [
        header(b"x")[:124] + b"9" * 11 + b"\0" + header(b"x")[136:],
        header(b"x")[:124] + b"\xff" * 12 + header(b"x")[136:],
        header(b"x")[:124] + b"\xc0" + b"\xff" * 11 + header(b"x")[136:],
        header(b"x")[:108] + b"zzzzzzz\0" + header(b"x")[116:],
        header(b"x")[:136] + b"\x80" + b"\xff" * 11 + header(b"x")[148:],
    ],
)
def test_impossible_numbers_are_damage(raw):
    with pytest.raises(CorruptLayer):
        one(checked(raw))


@pytest.mark.parametrize("device", [(2**31, 0), (0, 2**40), (-1, 0)])
def test_impossible_device_numbers_are_damage(device):
    with pytest.raises(CorruptLayer):
        one(header(b"x", kind=b"3", device=device))


# --- one parser decides ----------------------------------------------------


def test_pax_size_decides_over_ustar_size_either_way():
    """CVE-2025-62518: what one reader took for content was members for another."""
    hidden = member(b"hidden", b"h")
    for ustar_size in (0, 3 * BLOCK, 10**6):
        tar = pax({b"size": b"%d" % len(hidden)}) + header(b"x", size=ustar_size) + padded(hidden)
        found = read(tar + member(b"last") + END)
        assert [(each.name, each.size, content) for each, content in found] == [
            (b"x", len(hidden), hidden),
            (b"last", 0, b""),
        ]


def test_pax_size_of_zero_makes_the_content_members():
    inner = member(b"inner", b"i")
    tar = pax({b"size": b"0"}) + header(b"x", size=len(inner)) + inner
    assert [each.name for each, _ in read(tar + END)] == [b"x", b"inner"]


def test_pax_size_of_a_directory_means_nothing():
    tar = pax({b"size": b"512"}) + header(b"d/", kind=b"5") + member(b"y", b"1")
    assert [each.name for each, _ in read(tar + END)] == [b"d/", b"y"]


def test_a_size_for_the_extended_header_itself_is_its_own():
    tar = pax({b"size": b"5"}) + pax({b"path": b"name"}) + header(b"x") + padded(b"12345")
    found, content = one(tar)
    assert (found.name, content) == (b"name", b"12345")


# --- sparse files ----------------------------------------------------------


def gnu_sparse(extents, size):
    """A member in GNU's old sparse format."""
    entries = [b"%011o\0%011o\0" % extent for extent in extents]
    tail = bytes(41) + b"".join(entries[:4]).ljust(96, b"\0")
    tail += (b"\1" if len(entries) > 4 else b"\0") + b"%011o\0" % size
    blocks = b""
    rest = entries[4:]
    while rest:
        blocks += b"".join(rest[:21]).ljust(504, b"\0")
        rest = rest[21:]
        blocks += (b"\1" if rest else b"\0").ljust(8, b"\0")
    stored = sum(length for _, length in extents)
    return (
        header(b"s", kind=b"S", size=stored, magic=b"ustar  \0", tail=tail)
        + blocks
        + padded(b"c" * stored)
    )


@pytest.mark.parametrize("form", SPARSE_FORMATS)
@pytest.mark.parametrize("holes", [1, 3, 30, 300])
def test_sparse_files_of_gnu_tar(form, holes, tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as out:
        for number in range(holes):
            out.seek(number * 65536 + 4096)
            out.write(b"%05d" % number * 100)
        out.truncate(holes * 65536 + 10**6)
    (tmp_path / "after").write_bytes(b"after")
    tar = gnu_tar(tmp_path, "--sparse", *SPARSE_FORMATS[form])
    assert len(tar) < path.stat().st_size
    for step in (0, 1000):
        found = {each.name: (each, content) for each, content in read(tar, step=step)}
        each, content = found[b"./sparse"]
        assert each.size == path.stat().st_size
        assert sparse_content(each, content) == path.read_bytes()
        assert found[b"./after"][1] == b"after"


def test_a_sparse_file_that_is_one_hole():
    found, content = one(gnu_sparse([], 10**6))
    assert sparse_content(found, content) == bytes(10**6)


@pytest.mark.parametrize(
    ("extents", "size"),
    [
        ([(0, 512), (100, 512)], 10**4),
        ([(512, 512), (0, 512)], 10**4),
        ([(0, 512)], 100),
        ([(10**6, 512)], 10**4),
    ],
)
def test_sparse_maps_that_overlap_or_lead_out_are_damage(extents, size):
    with pytest.raises(CorruptLayer):
        one(gnu_sparse(extents, size))


def pax_sparse(records, content):
    return pax({b"GNU.sparse.name": b"s", **records}) + member(b"GNUSparseFile.0/s", content)


@pytest.mark.parametrize(
    ("records", "content"),
    [
        ({b"GNU.sparse.map": b"0,3"}, b"abc"),
        ({b"GNU.sparse.map": b"0,3,9", b"GNU.sparse.size": b"9"}, b"abc"),
        ({b"GNU.sparse.map": b"0,4", b"GNU.sparse.size": b"9"}, b"abc"),
        ({b"GNU.sparse.map": b"0,-3", b"GNU.sparse.size": b"9"}, b"abc"),
        ({b"GNU.sparse.map": b"0,3", b"GNU.sparse.size": b"9223372036854775808"}, b"abc"),
        ({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}, b"1\n0\n3\nabc"),
        ({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}, padded(b"x\n0\n3\n") + b"abc"),
        ({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}, padded(b"9\n0\n3\n") + b"abc"),
        ({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}, b""),
    ],
)
def test_wrong_pax_sparse_headers_are_damage(records, content):
    with pytest.raises(CorruptLayer):
        one(pax_sparse(records, content))


# --- limits ----------------------------------------------------------------


def test_entries_are_limited():
    tar = member(b"x") * 5 + END
    assert len(read(tar, entries=5)) == 5
    with pytest.raises(LimitExceeded):
        read(tar, entries=4)


def test_extended_headers_of_one_entry_are_limited_together():
    big = pax({b"comment": b"x" * 1000})
    read((big + member(b"x")) * 9 + END, header_bytes=2000)
    with pytest.raises(LimitExceeded):
        read(big * 3 + member(b"x") + END, header_bytes=2000)
    with pytest.raises(LimitExceeded):
        read(long_name(b"n" * 3000) + member(b"x") + END, header_bytes=2000)
    with pytest.raises(LimitExceeded):
        read(header(b"h", kind=b"x", size=10**12), header_bytes=2000)


@pytest.mark.parametrize("form", SPARSE_FORMATS)
def test_sparse_maps_are_limited(form, tmp_path):
    with (tmp_path / "sparse").open("wb") as out:
        for number in range(500):
            out.seek(number * 8192)
            out.write(b"x" * 4096)
        out.truncate(10**8)
    tar = gnu_tar(tmp_path, "--sparse", *SPARSE_FORMATS[form])
    with pytest.raises(LimitExceeded):
        read(tar, header_bytes=2000)


def test_holes_of_all_sparse_files_are_limited_together():
    big = gnu_sparse([(0, 512)], 10**9)
    assert len(read(big * 2 + END, bytes=2 * 10**9)) == 2
    with pytest.raises(LimitExceeded):
        read(big * 3 + END, bytes=2 * 10**9)


def test_global_headers_without_end_take_no_memory():
    assert read(pax({b"comment": b"x" * 100_000}, kind=b"g") * 100 + END) == []


# --- what a real tar makes of the same -------------------------------------


def test_gnu_tar_reads_our_test_archives(tmp_path: Path):
    """The builder of these tests is held to a real program."""
    tar = (
        pax({b"path": b"p" * 150, b"mtime": b"5.5"})
        + member(b"x", b"1" * 1000)
        + long_name(b"l" * 150)
        + member(b"y", b"2")
        + header(b"dir", kind=b"5", mode=0o755)
        + header(b"dir/link", kind=b"2", target=b"../x")
        + gnu_sparse([(1000, 512), (5000, 100)], 9000)
        + END
    )
    listed = subprocess.run(
        ["tar", "--list", "--file=-"], input=tar, capture_output=True, check=True
    ).stdout.split()
    assert [name.rstrip(b"/") for name in listed] == [
        b"p" * 150, b"l" * 150, b"dir", b"dir/link", b"s"
    ]  # fmt: skip
    assert [each.name for each, _ in read(tar)] == [name.rstrip(b"/") for name in listed]


def test_nothing_but_duccmake_errors_comes_out_of_rubbish():
    for seed in range(200):
        rubbish = (b"%d" % seed * 5000)[:5000]
        with pytest.raises(DuccmakeError):
            read(rubbish)
