"""What podman needs to make a layer's archive again: held to the archive itself."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
from base64 import b64decode
from pathlib import Path

import pytest

from corpus.streams import END, member, pax
from duccmake.layer.archive import normal_path
from duccmake.layer.tar import TarReader
from duccmake.layer.tar_split import TarSplit


def split(archive: bytes, path: Path, *, piece: int = 1 << 20, reads: bool = True) -> list[dict]:
    """The lines that are taken down of an archive that comes in pieces."""
    pieces = (archive[at : at + piece] for at in range(0, len(archive), piece))
    taken = TarSplit()
    reader = TarReader(pieces, split=taken)
    for _ in reader:
        if reads:
            for _ in reader.content():
                pass
    taken.write(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def assembled(lines: list[dict], archive: bytes) -> bytes:
    """The archive as podman makes it: what is in the lines, and the content of files by name."""
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as tar:
        contents = {
            normal_path(os.fsencode(one.name)): tar.extractfile(one).read()
            for one in tar
            if one.isreg()
        }
    made = b""
    for number, line in enumerate(lines):
        assert line["position"] == number
        if line["type"] == 2:
            made += b64decode(line["payload"])
        elif line.get("size"):
            name = b64decode(line["name_raw"]) if "name_raw" in line else line["name"].encode()
            content = contents[normal_path(name)]
            assert len(content) == line["size"]
            assert b64decode(line["payload"]) == crc64(content)
            made += content
    return made


def crc64(content: bytes) -> bytes:
    """Go's hash/crc64 with its ISO table, bit by bit."""
    value = 2**64 - 1
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xD800000000000000 if value & 1 else 0)
    return (value ^ (2**64 - 1)).to_bytes(8, "big")


def archive_of(*files: tuple[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "etc"
        tar.addfile(link)
    return out.getvalue()


FILES = (
    ("etc/", b""),
    ("etc/empty", b""),
    ("etc/one", b"1"),
    ("etc/block", b"b" * 512),
    ("etc/" + "n" * 150, b"long" * 300),
    ('etc/a "quoted" \\ name\u00e9', b"q"),
    ("etc/raw\udcff", b"r"),
    ("./etc/dotted", b"d" * 70_000),
)


@pytest.mark.parametrize("piece", [1, 7, 512, 1000, 1024, 1 << 20])
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("reads", [False, True], ids=["passed over", "read"])
def test_archive_is_made_again_byte_by_byte_however_it_came(tmp_path, piece, format, reads):
    archive = archive_of(*FILES, format=format) + bytes(3000)
    lines = split(archive, tmp_path / "split", piece=piece, reads=reads)
    assert assembled(lines, archive) == archive


def test_archives_of_any_shape_are_made_again(tmp_path):
    chance = random.Random(4)
    for number in range(60):
        files = [
            (f"d{at}/{'f' * chance.randrange(1, 200)}", chance.randbytes(chance.randrange(1500)))
            for at in range(chance.randrange(12))
        ]
        archive = archive_of(*files) + bytes(512 * chance.randrange(4))
        piece = chance.choice([3, 100, 512, 4096, 1 << 20])
        lines = split(archive, tmp_path / str(number), piece=piece)
        assert assembled(lines, archive) == archive


def test_each_member_has_its_header_in_one_line_and_one_of_its_own(tmp_path):
    """Newer containers/storage reads headers off it and wants them so."""
    archive = archive_of(*FILES, format=tarfile.PAX_FORMAT)
    lines = split(archive, tmp_path / "split")
    kinds = [line["type"] for line in lines]
    assert kinds == [2, 1] * (len(FILES) + 1) + [2]
    assert [line["size"] for line in lines if "size" in line] == [
        len(content) for _, content in FILES if content
    ]


def test_what_the_form_has_no_words_for_is_not_written(tmp_path):
    twice = archive_of(("etc/one", b"1"), ("./etc//one", b"2"))
    sparse = (
        pax(
            {
                b"GNU.sparse.major": b"1",
                b"GNU.sparse.minor": b"0",
                b"GNU.sparse.name": b"s",
                b"GNU.sparse.realsize": b"5",
            }
        )
        + member(b"s", b"0\n" + bytes(510))
        + END
    )
    for number, archive in enumerate((twice, sparse)):
        assert split(archive, tmp_path / str(number)) == []
