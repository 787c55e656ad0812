"""Layer blobs as streams: decompressed, checked and hashed in one pass.

A thread of its own reads, hashes and inflates; the caller's thread gets the
uncompressed archive piece by piece.  All of it is C code that releases the
interpreter lock, so both run side by side.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import queue
import sys
import threading
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, Self

from isal import igzip_lib

from ..errors import CorruptLayer, DigestMismatch, DuccmakeError
from ..fs.closing import Closing
from ..oci.reference import Digest
from .limits import Account, UnpackLimits
from .zstd import zstd

_READ = 128 * 1024
_PIECE = 1024 * 1024
_PIECES_AHEAD = 4
_SWITCH_SECONDS = 0.0005
"""How long the inflating thread waits for the interpreter, at most, behind each call.

The 5 ms that Python gives a busy thread are as long as inflating a piece takes.
"""

_ZSTD_WINDOW_LOG = 29
"""512 MiB: what podman and containerd accept; more is a memory bomb."""

_XZ_MEMORY = 256 * 1024 * 1024
"""What ``xz -9`` needs, four times over."""


class _Decompressor(Protocol):
    """What bz2, lzma, igzip and zstd agree on: one member, with bounded output."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _gzip() -> _Decompressor:
    decompressor: _Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return decompressor


def _zstd() -> _Decompressor:
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return zstd.ZstdDecompressor(options=options)


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)


_MAGIC: tuple[tuple[bytes, str, Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    # zstd's skippable frames, which zstd:chunked images may also begin with.
    *((bytes([0x50 + n]) + b"\x2a\x4d\x18", "zstd", _zstd) for n in range(16)),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", "xz", _xz),
)
_MAGIC_BYTES = 6


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What a drained stream was: digests of both sides, sizes in bytes, the compression.

    ``diff_ids`` are those of the archive by each algorithm that was asked for.
    """

    blob: Digest
    diff_ids: tuple[Digest, ...]
    blob_bytes: int
    diff_bytes: int
    compression: str

    def verify(self, blob: Digest) -> None:
        """Hold the stream to the digest that the blob goes by; `DigestMismatch`."""
        if self.blob != blob:
            raise DigestMismatch(
                f"the layer's blob has the digest {self.blob} where {blob} was promised",
                hint="the stored blob is damaged: run again to fetch it anew",
            )


class LayerStream(Closing):
    """The uncompressed archive in a blob, as an iterator of pieces; a context manager.

    The compression is told by magic number, whatever the media type says.  Several
    gzip members and zstd frames are read on.  Raises `CorruptLayer` for damaged
    or truncated data and `LimitExceeded`; `result` is there once the iterator is
    exhausted.  What the caller makes of the archive goes to the same ``account``.
    """

    def __init__(
        self,
        path: Path,
        *,
        algorithm: str = "sha256",
        diff_algorithms: Collection[str] = ("sha256",),
        limits: UnpackLimits | None = None,
    ) -> None:
        self._path = path
        self.account = Account(limits or UnpackLimits())
        self._blob_hash = hashlib.new(algorithm)
        self._diff_hashes = [hashlib.new(one) for one in diff_algorithms]
        self._blob_bytes = 0
        self._diff_bytes = 0
        self._compression = "none"
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_PIECES_AHEAD)
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inflate", daemon=True)
        self._switch_seconds = sys.getswitchinterval()

    def __enter__(self) -> Self:
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._thread.start()
        return self

    def close(self) -> None:
        """Have the thread stop."""
        sys.setswitchinterval(self._switch_seconds)
        self._stop.set()
        while self._thread.is_alive():
            # The reader may wait for room: make some until it sees that it is to stop.
            try:
                self._pieces.get(timeout=0.05)
            except queue.Empty:
                continue

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            yield piece
        if self._failure is not None:
            raise self._failure

    @property
    def result(self) -> StreamResult:
        """Digests and sizes of the whole stream."""
        return StreamResult(
            blob=Digest(self._blob_hash.name, self._blob_hash.hexdigest()),
            diff_ids=tuple(Digest(one.name, one.hexdigest()) for one in self._diff_hashes),
            blob_bytes=self._blob_bytes,
            diff_bytes=self._diff_bytes,
            compression=self._compression,
        )

    def _run(self) -> None:
        try:
            with self._path.open("rb", buffering=0) as blob:
                self.account.blob_bytes = os.fstat(blob.fileno()).st_size
                for piece in self._inflate(blob):
                    for diff_hash in self._diff_hashes:
                        diff_hash.update(piece)
                    self._diff_bytes += len(piece)
                    self.account.read(len(piece))
                    self._pieces.put(piece)
                    if self._stop.is_set():
                        return
        except DuccmakeError as error:
            self._failure = error
        except Exception as error:
            # Each decompressor has error types of its own, igzip's right below Exception.
            self._failure = _corrupt(self._path, self._compression, error)
        finally:
            self._pieces.put(None)

    def _read(self, blob: IO[bytes]) -> bytes:
        data = blob.read(_READ)
        self._blob_hash.update(data)
        self._blob_bytes += len(data)
        return data

    def _inflate(self, blob: IO[bytes]) -> Iterator[bytes]:
        data = self._start(blob, b"")
        self._compression, make = _recognise(data)
        if make is None:
            while data:
                yield data
                data = self._read(blob)
            return
        while data:
            rest = yield from self._inflate_member(blob, make(), data)
            data = self._start(blob, rest)
            if not data.strip(b"\0"):
                self._check_padding(blob)
                return
            if _recognise(data)[0] != self._compression:
                raise CorruptLayer(
                    f"behind its {self._compression} data the layer goes on with {data[:8]!r}"
                )

    def _start(self, blob: IO[bytes], data: bytes) -> bytes:
        """Read on until there is enough of a member to see its magic number."""
        while len(data) < _MAGIC_BYTES and (more := self._read(blob)):
            data += more
        return data

    def _check_padding(self, blob: IO[bytes]) -> None:
        """Read the rest, for the blob's digest: zeros that pad it, and nothing else."""
        while data := self._read(blob):
            if data.strip(b"\0"):
                raise CorruptLayer("there is data after the zeros that pad the layer's end")

    def _inflate_member(
        self, blob: IO[bytes], member: _Decompressor, data: bytes
    ) -> Generator[bytes, None, bytes]:
        """Yield one member's content; return what was read beyond its end."""
        while True:
            piece = member.decompress(data, _PIECE)
            if piece:
                yield piece
            if member.eof:
                return member.unused_data
            data = self._read(blob) if member.needs_input else b""
            if member.needs_input and not data:
                raise CorruptLayer(
                    f"the {self._compression} data ends in the middle, "
                    f"after {self._blob_bytes} bytes"
                )


def _recognise(data: bytes) -> tuple[str, Callable[[], _Decompressor] | None]:
    for magic, name, make in _MAGIC:
        if data.startswith(magic):
            return name, make
    return "none", None


def _corrupt(path: Path, compression: str, error: Exception) -> DuccmakeError:
    if isinstance(error, OSError) and error.errno is not None:
        return CorruptLayer(f"the blob {path.name} cannot be read: {error.strerror}")
    if any(words in str(error) for words in _TOO_MUCH_MEMORY):
        return CorruptLayer(
            f"the {compression} data needs more memory to be decompressed than container tools "
            f"give it, {_MEMORY[compression]} MiB",
            hint="ask the image's author to compress it with a smaller window or dictionary",
        )
    return CorruptLayer(f"the {compression} data is damaged: {error}")


_TOO_MUCH_MEMORY = ("too much memory", "Memory usage limit")
"""What libzstd and liblzma say of a window, or a dictionary, that is larger than allowed."""

_MEMORY = {"zstd": 1 << _ZSTD_WINDOW_LOG >> 20, "xz": _XZ_MEMORY >> 20}
