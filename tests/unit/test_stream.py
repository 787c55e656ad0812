from __future__ import annotations

import gzip
import hashlib
import lzma
import threading
import zlib

import pytest

from corpus.streams import DAMAGED, END, SOUND, gzip_members, member
from duccmake.errors import CorruptLayer, DigestMismatch, LimitExceeded
from duccmake.layer.limits import UnpackLimits
from duccmake.layer.stream import LayerStream
from duccmake.layer.zstd import zstd
from support.pipeline import digest_of

TAR = b"".join(member(b"file-%d" % n, hashlib.sha256(b"%d" % n).digest() * 50) for n in range(9))
TAR += END


def read(tmp_path, blob, **more):
    path = tmp_path / "blob"
    path.write_bytes(blob)
    with LayerStream(path, **more) as stream:
        content = b"".join(stream)
    return content, stream.result


@pytest.mark.parametrize("name", SOUND)
def test_content_and_both_digests_are_right(name, tmp_path):
    blob = SOUND[name](TAR)
    content, result = read(tmp_path, blob)
    assert content == TAR
    assert (result.blob, result.diff_ids) == (digest_of(blob), (digest_of(TAR),))
    assert (result.blob_bytes, result.diff_bytes) == (len(blob), len(TAR))
    assert result.compression == name.partition("-")[0].replace("raw", "none")


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_blob_is_refused(name, tmp_path):
    with pytest.raises(CorruptLayer):
        read(tmp_path, DAMAGED[name](TAR))


@pytest.mark.parametrize("name", [name for name in SOUND if name != "raw"])
def test_cut_blob_is_refused_wherever_it_is_cut(name, tmp_path):
    blob = SOUND[name](TAR)
    if name == "gzip-padded-with-zeros":
        blob = blob.rstrip(b"\0")
    refused = []
    for cut in sorted({*range(3, 30, 3), *range(len(blob) - 18, len(blob)), len(blob) // 2}):
        try:
            content, result = read(tmp_path, blob[:cut])
        except CorruptLayer:
            refused.append(cut)
        else:
            # Cut where a member or frame ends it is whole, and only the digest can tell.
            assert content != TAR or name.startswith("zstd-with-a-skippable")
            with pytest.raises(DigestMismatch):
                result.verify(digest_of(blob))
    assert len(refused) > 20


def test_an_empty_blob_is_an_empty_stream(tmp_path):
    assert read(tmp_path, b"")[0] == b""


@pytest.mark.parametrize("blob", [b"x", b"\x1f", b"BZ", b"\x28\xb5\x2f"])
def test_a_blob_shorter_than_a_magic_number_is_passed_on(blob, tmp_path):
    assert read(tmp_path, blob)[0] == blob


def test_sha512_where_the_descriptor_says_so(tmp_path):
    _, result = read(tmp_path, gzip.compress(TAR), algorithm="sha512")
    assert result.blob.hex == hashlib.sha512(gzip.compress(TAR)).hexdigest()


def test_a_blob_is_held_to_its_digest(tmp_path):
    blob = gzip.compress(TAR)
    _, result = read(tmp_path, blob)
    result.verify(digest_of(blob))
    with pytest.raises(DigestMismatch, match="blob has the digest"):
        result.verify(digest_of(b""))


def test_bytes_are_limited(tmp_path):
    with pytest.raises(LimitExceeded, match=r"limits\.bytes"):
        read(tmp_path, gzip.compress(TAR), limits=UnpackLimits(bytes=len(TAR) - 1))
    assert read(tmp_path, gzip.compress(TAR), limits=UnpackLimits(bytes=len(TAR)))[0] == TAR


def test_ratio_is_limited_beyond_the_first_100_mib(tmp_path):
    bomb = gzip.compress(bytes(120 * 1024 * 1024))
    with pytest.raises(LimitExceeded, match=r"limits\.ratio"):
        read(tmp_path, bomb, limits=UnpackLimits(ratio=100))
    small = gzip.compress(bytes(1024 * 1024))
    assert len(read(tmp_path, small, limits=UnpackLimits(ratio=2))[0]) == 1024 * 1024


def test_time_is_limited(tmp_path):
    with pytest.raises(LimitExceeded, match=r"limits\.seconds"):
        read(tmp_path, TAR, limits=UnpackLimits(seconds=1e-9))


def test_no_limits_where_they_are_zero(tmp_path):
    none = UnpackLimits(bytes=0, ratio=0, seconds=0)
    assert read(tmp_path, gzip_members(TAR), limits=none)[0] == TAR


def windowed(log: int) -> bytes:
    """A zstd frame with a window of two to the power of ``log`` bytes (RFC 8878, 3.1.1.1)."""
    frame = bytearray(zstd.compress(TAR, options={zstd.CompressionParameter.content_size_flag: 0}))
    single_segment = 0x20
    assert not frame[4] & single_segment
    frame[5] = (log - 10) << 3
    return bytes(frame)


@pytest.mark.parametrize("log", [20, 27, 28, 29])
def test_a_zstd_window_is_as_large_as_podman_takes(log, tmp_path):
    content, result = read(tmp_path, windowed(log))
    assert content == TAR
    assert result.compression == "zstd"


@pytest.mark.parametrize("log", [30, 31, 41])
def test_a_zstd_window_beyond_is_refused_for_that_reason_and_not_as_damage(log, tmp_path):
    with pytest.raises(CorruptLayer, match=r"more memory.* 512 MiB") as caught:
        read(tmp_path, windowed(log))
    assert "damaged" not in str(caught.value)


def test_xz_that_wants_gigabytes_of_memory_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1024 * 1024}]
    blob = bytearray(lzma.compress(TAR, filters=filters))
    # xz file format 1.0.4, 3.1 and 5.3.1: the block header's dictionary size, and its CRC32.
    assert blob[14:16] == b"\x21\x01"
    blob[16] = 39
    size = (blob[12] + 1) * 4
    blob[12 + size - 4 : 12 + size] = zlib.crc32(blob[12 : 12 + size - 4]).to_bytes(4, "little")
    with pytest.raises(CorruptLayer, match=r"more memory.* 256 MiB"):
        read(tmp_path, bytes(blob))


def test_a_missing_blob_is_named(tmp_path):
    with pytest.raises(CorruptLayer, match="cannot be read"), LayerStream(tmp_path / "x") as stream:
        list(stream)


def test_a_caller_that_stops_early_leaves_no_thread(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(gzip.compress(bytes(50 * 1024 * 1024)))
    before = threading.active_count()
    with LayerStream(path) as stream:
        next(iter(stream))
    assert threading.active_count() == before
