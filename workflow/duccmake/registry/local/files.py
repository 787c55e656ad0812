"""Reading local images: plain files alone, and blobs of them as downloads."""

from __future__ import annotations

import os
import stat
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ...errors import (
    DigestMismatch,
    DuccmakeError,
    ManifestError,
    NotFound,
    RegistryError,
    RegistryUnavailable,
)
from ...oci.manifest import Descriptor
from ...oci.reference import Reference
from ..download import Download
from ..http.limits import Pace
from ..http.retry import Patience, RetryPolicy
from ..images import Images

MAX_METADATA_BYTES = 16 * 1024**2
"""The largest manifest, index or configuration that is read from a file."""

_HINT = "see whether it was written to its end, and write it again"
_NO_LIMIT = Pace(0)


def open_plain(path: Path) -> IO[bytes]:
    """Open a plain file; a FIFO or a device in its place is refused, not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RegistryError(f"{path} is not a plain file", hint=_HINT)
    return open(descriptor, "rb")


def read_metadata(file: IO[bytes], name: object) -> bytes:
    """All of a small file; `ManifestError` where it is none."""
    content = file.read(MAX_METADATA_BYTES + 1)
    if len(content) > MAX_METADATA_BYTES:
        raise ManifestError(f"{name} has more than {MAX_METADATA_BYTES} bytes")
    return content


@contextmanager
def reading(reference: Reference) -> Iterator[None]:
    """Turn what goes wrong with the files of an image into errors that name both."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"{error.filename or reference.path} does not exist",
            image=reference.name,
            hint="write the image there, or remove the entry",
        ) from None
    except OSError as error:
        raise RegistryUnavailable(
            f"{error.filename or reference.path} cannot be read: {error.strerror or error}",
            image=reference.name,
            hint="see to its permissions and its file system",
        ) from None
    except (DigestMismatch, ManifestError) as error:
        error.hint = _HINT
        raise error.within(image=reference.name) from None
    except DuccmakeError as error:
        raise error.within(image=reference.name) from None


class LocalImages(Images):
    """Images in files, whose blobs are copied as others are downloaded."""

    _policy = RetryPolicy(Patience(tries=2, seconds=60.0), backoff_seconds=0.0)

    @abstractmethod
    def _opened_for(
        self, reference: Reference, descriptor: Descriptor
    ) -> AbstractContextManager[Callable[[], IO[bytes]]]:
        """The image, open, as what opens a blob of it, which may be more than once."""

    def blob_bytes(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """See `Manifests`."""
        with self._opened_for(reference, descriptor) as opened, opened() as file:
            return descriptor.verify(read_metadata(file, descriptor.digest))

    def _deliver(self, reference: Reference, download: Download) -> int:
        with self._opened_for(reference, download.descriptor) as opened:
            return download.run(_FileBlob(reference, opened))


class _FileBlob:
    """A blob in a file (`download.Blob`)."""

    pace = _NO_LIMIT

    def __init__(self, reference: Reference, opened: Callable[[], IO[bytes]]) -> None:
        self._reference = reference
        self._opened = opened
        self.place = reference.path

    def open(self, offset: int, size: int) -> _FileAnswer:
        reference = self._reference
        # Download takes errors of the system for those of the file that it writes.
        with reading(reference):
            file = self._opened()
            file.seek(offset)
        if not offset:
            return _FileAnswer(200, reference, file)
        return _FileAnswer(
            206, reference, file, {"Content-Range": f"bytes {offset}-{size - 1}/{size}"}
        )


@dataclass(frozen=True, slots=True)
class _FileAnswer:
    """The rest of a file (`download.Answer`)."""

    status: int
    reference: Reference
    file: IO[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)

    def pieces(self, size: int, *, decode: bool) -> Iterator[bytes]:
        while piece := self._read(size):
            yield piece

    def _read(self, size: int) -> bytes:
        with reading(self.reference):
            return self.file.read(size)

    def close(self) -> None:
        self.file.close()
