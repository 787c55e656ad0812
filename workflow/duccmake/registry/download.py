"""Downloads of blobs: resumed, verified, one at a time for a digest."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from ..errors import (
    DigestMismatch,
    DuccmakeError,
    NoSpace,
    RegistryError,
    RegistryUnavailable,
    WrongSize,
)
from ..fs.locks import acquire, open_file
from ..oci.manifest import Descriptor
from .damaged import MOST, Damaged
from .http.limits import Pace
from .http.retry import RetryPolicy, TryAgain, backoff_seconds

logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
LEAST_SLICE = 16 * 1024
"""Who gives less of a blob at a time might as well give nothing."""

SLOWEST_BYTES_PER_SECOND = 100
"""A transfer that stays below this for a whole deadline has stalled."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")


class Answer(Protocol):
    """What a source says: a status of HTTP's, headers, and a body to be read once."""

    @property
    def status(self) -> int:
        """200 for all of the blob, 206 for the rest, 416 where there is no such rest."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Content-Range and its like."""
        ...

    def pieces(self, size: int, *, decode: bool) -> Iterator[bytes]:
        """The body; ``decode`` undoes a Content-Encoding."""
        ...

    def close(self) -> None:
        """Give up what is left of it."""
        ...


class Blob(Protocol):
    """A blob where it can be had from."""

    @property
    def pace(self) -> Pace:
        """The bytes a second that may come from here."""
        ...

    @property
    def place(self) -> str:
        """What the place is called, such as a registry's host."""
        ...

    def open(self, offset: int, size: int) -> Answer:
        """Ask for the blob of that size from ``offset`` on: the answer is 200, 206 or 416."""
        ...


class Download:
    """One blob on its way to ``path``, by way of ``<path>.part`` beside it.

    The part is kept when a download is given up, and the next one goes on from
    it.  The policy's tries count failures without progress between them, and
    ``damaged`` what came whole and wrong.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        path: Path,
        policy: RetryPolicy,
        damaged: Damaged | None = None,
    ) -> None:
        self._damaged = damaged or Damaged()
        self.descriptor = descriptor
        self._path = path
        self._policy = policy
        self._hasher = hashlib.new(descriptor.digest.algorithm)
        self._decode = False
        self._received = 0

    def run(self, blob: Blob) -> int:
        """Download ``blob``; returns the bytes that came over the
        network, from sources asked before as well.

        Raises `DigestMismatch` where what comes is not what the descriptor
        names, also from its beginning, and `RegistryError` as the source does.  With
        `NoSpace` nothing is kept, for the part may be what fills the disk.
        """
        part_path = _part_path(self._path)
        try:
            if self._is_done():
                return 0
            with _locked(part_path) as part:
                if self._is_done():
                    part_path.unlink()
                    return 0
                self._fill(part, blob)
                os.fsync(part.fileno())
                part_path.rename(self._path)
        except OSError as error:
            found = f"{self._path} cannot be written: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part_path.unlink(missing_ok=True)
                raise NoSpace(found, hint="make room and run again") from error
            raise DuccmakeError(found, hint="check the permissions and run again") from error
        return self._received

    def _is_done(self) -> bool:
        """Whether the file is there: only verified content ever gets its name."""
        try:
            return self._path.stat().st_size == self.descriptor.size
        except FileNotFoundError:
            return False

    def _fill(self, part: IO[bytes], blob: Blob) -> None:
        """Bring the part to the descriptor's size and digest."""
        self._rehash(part)
        failures = 0
        is_left_over = part.tell() > 0
        error: RegistryError | DigestMismatch
        while not self._fits(part):
            self._damaged.check(self.descriptor, blob.place)
            before = part.tell()
            try:
                self._once(part, blob)
                continue
            except TryAgain as failure:
                failures = 0 if part.tell() - before >= CHUNK_BYTES else failures
                error = failure.error
            except DigestMismatch as mismatch:
                # With what an earlier download left, that may have been wrong.
                if not is_left_over:
                    self._damaged.note(self.descriptor, blob.place, mismatch.found)
                if isinstance(mismatch, WrongSize):
                    # Asking again brings the same; what is here serves whoever names its size.
                    raise
                is_left_over = False
                self._restart(part)
                if self._damaged.count(self.descriptor, blob.place) >= MOST:
                    raise
                error = mismatch
            failures += 1
            if failures >= self._policy.patience.tries:
                raise error
            wait = backoff_seconds(failures, self._policy.backoff_seconds)
            logger.info("%s; going on from byte %d in %.1f s", error.found, part.tell(), wait)
            time.sleep(wait)

    def _rehash(self, part: IO[bytes]) -> None:
        """Hash what an earlier download left behind."""
        self._hasher = hashlib.new(self.descriptor.digest.algorithm)
        part.seek(0)
        while piece := part.read(1024**2):
            self._hasher.update(piece)
        if part.tell() >= self.descriptor.size and not self._fits(part):
            self._restart(part)

    def _fits(self, part: IO[bytes]) -> bool:
        descriptor = self.descriptor
        return part.tell() == descriptor.size and self._hasher.hexdigest() == descriptor.digest.hex

    def _restart(self, part: IO[bytes]) -> None:
        part.seek(0)
        part.truncate()
        self._hasher = hashlib.new(self.descriptor.digest.algorithm)

    def _once(self, part: IO[bytes], blob: Blob) -> None:
        """Ask once for what is missing and append what comes.

        Raises `TryAgain` where the rest is still to come, `DigestMismatch` where
        nothing of the part can be trusted.
        """
        offset = part.tell()
        response = blob.open(offset, self.descriptor.size)
        try:
            if offset and not self._continues(response, offset):
                if response.status != 200:
                    raise self._mismatch("the source has no such rest of it")
                logger.info("%s: the source begins anew", self.descriptor.digest)
                self._restart(part)
                offset = 0
            elif response.status not in (200, 206):
                raise RegistryError(f"a download is answered with status {response.status}")
            self._append(part, response, blob.pace)
        finally:
            response.close()
        if part.tell() < self.descriptor.size:
            if self._hasher.hexdigest() == self.descriptor.digest.hex:
                raise WrongSize(
                    f"{self.descriptor.digest} has {part.tell()} bytes where "
                    f"{self.descriptor.size} were promised",
                    hint="the image is broken: ask its author to build and push it again",
                )
            if part.tell() - offset >= LEAST_SLICE and _is_slice(response, part.tell()):
                return
            if not offset and _is_delimited(response):
                raise self._too_short(part, response, blob)
            raise TryAgain(
                RegistryUnavailable(f"the download of {self.descriptor.digest} is short")
            )
        if not self._fits(part):
            raise self._mismatch(
                f"bytes with {self.descriptor.digest.algorithm}:{self._hasher.hexdigest()}"
            )

    def _too_short(
        self, part: IO[bytes], response: Answer, blob: Blob
    ) -> DigestMismatch | TryAgain:
        """What to raise where the source has no more of it, by its own word."""
        if not response.headers.get("Content-Type", "").startswith("text/html"):
            return self._mismatch(f"{part.tell()} bytes")
        self._restart(part)
        return TryAgain(
            RegistryUnavailable(
                f"{blob.place} answers with a page for people in a layer's place",
                hint="see whether a proxy or a login page answers instead of the registry",
            )
        )

    def _continues(self, response: Answer, offset: int) -> bool:
        """Whether the answer is the rest that was asked for (RFC 9110, 14.4)."""
        if response.status != 206 or _encoding(response):
            return False
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if not found or int(found.group(1)) != offset:
            return False
        return found.group(3) in ("*", str(self.descriptor.size))

    def _append(self, part: IO[bytes], response: Answer, pace: Pace) -> None:
        window_start, window_bytes = time.monotonic(), 0
        coming = _coming(response, part.tell())
        for piece in response.pieces(CHUNK_BYTES, decode=self._wants_decoding(response)):
            self._received += len(piece)
            if part.tell() + len(piece) > self.descriptor.size:
                raise self._mismatch(f"{coming} bytes" if coming else "more bytes")
            _write(part, piece)
            self._hasher.update(piece)
            window_bytes += len(piece)
            elapsed = time.monotonic() - window_start
            if elapsed > self._policy.patience.seconds:
                if window_bytes < SLOWEST_BYTES_PER_SECOND * elapsed:
                    raise TryAgain(RegistryUnavailable("the download has stalled"))
                window_start, window_bytes = time.monotonic(), 0
            wait = pace.take(len(piece))
            if wait > 0:
                time.sleep(wait)

    def _wants_decoding(self, response: Answer) -> bool:
        """Whether a Content-Encoding was put around the blob on its way.

        Some stores label a compressed layer with its own compression: then the
        bytes as sent have the promised length.  Where there is no length, a
        mismatch has the next try read the body the other way.
        """
        if not _encoding(response):
            return False
        length = response.headers.get("Content-Length", "")
        if length.isdigit():
            return int(length) != self.descriptor.size
        self._decode = not self._decode
        return self._decode

    def _mismatch(self, found: str) -> DigestMismatch:
        descriptor = self.descriptor
        return DigestMismatch(
            f"{found} where {descriptor.size} bytes with {descriptor.digest} were promised",
            hint="the registry or a proxy serves damaged content: ask its operator",
        )


def _write(part: IO[bytes], piece: bytes) -> None:
    """Write all of it: an unbuffered file may take less at a time."""
    rest = memoryview(piece)
    while rest:
        rest = rest[part.write(rest) :]


def _coming(response: Answer, offset: int) -> int:
    """How many bytes there are of the blob, as far as the source says; else 0."""
    length = response.headers.get("Content-Length", "")
    return offset + int(length) if length.isdigit() and not _encoding(response) else 0


def _is_slice(response: Answer, end: int) -> bool:
    """Whether it gave all that it said, which is less than was asked for (RFC 9110, 15.3.7)."""
    found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    return response.status == 206 and found is not None and int(found.group(2)) + 1 == end


def _is_delimited(response: Answer) -> bool:
    """Whether the answer says where it ends, so that one that broke off is told from it."""
    return bool(
        {"content-length", "transfer-encoding"} & {name.lower() for name in response.headers}
    )


def _encoding(response: Answer) -> str:
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _part_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """The part file, open and locked against every other process and thread."""
    part.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(open_file(part), "r+b", buffering=0) as file:
            if not acquire(file.fileno(), wait=False):
                logger.info("waiting for another download to finish %s", part.name)
                acquire(file.fileno())
            # Whoever held the lock may have renamed the file meanwhile.
            if _is_same(file, part):
                yield file
                return


def _is_same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
