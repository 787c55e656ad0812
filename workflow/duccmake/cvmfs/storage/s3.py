"""A storage in a bucket: ``CVMFS_UPSTREAM_STORAGE=S3,TMP,ALIAS@FILE``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...errors import DuccmakeError, NoSpace, RepositoryError
from ..names import storage_path
from . import NEVER, Mark, NotThere, checked
from .bucket import Bucket, code_of
from .s3_settings import S3Settings

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_T = TypeVar("_T")
_R = TypeVar("_R")

_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_HINT = "check the keys in s3.conf, what they may do in the bucket, and this machine's clock"


class S3Storage:
    """The storage that ``settings`` name; an object that was put lasts once that is answered.

    Who may not list a bucket is told that an object that is not there is forbidden.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._bucket = Bucket(settings)
        self._headers = {
            "Content-Type": "application/octet-stream",
            "Cache-Control": "max-age=259200",
            **({"x-amz-acl": settings.acl} if settings.acl else {}),
        }

    def get(self, name: str) -> bytes:
        """An object as it is stored, its hash checked; `NotThere`."""
        return checked(name, self.file(storage_path(name)))

    def has(self, names: Collection[str]) -> set[str]:
        """Those of the objects that are there, and not empty; one request for each."""
        sizes = self._each(lambda name: (name, self._size(name)), names)
        return {name for name, size in sizes if size}

    def lacking(self, sizes: Mapping[str, int]) -> set[str]:
        """Those that are not there in the size that is said of them; one request for each.

        All of them where CVMFS_S3_PEEK_BEFORE_PUT is off.
        """
        return self.lost(sizes, NEVER) if self._settings.peek else set(sizes)

    def lost(self, sizes: Mapping[str, int], since: Mark) -> set[str]:
        """Those that are not there in the size that is said of them; one request for each."""
        found = self._each(lambda item: (item[0], self._size(item[0]) == item[1]), sizes.items())
        return {name for name, is_there in found if not is_there}

    def mark(self) -> Mark:
        """Always `NEVER`: a bucket tells nothing but by asking for each object."""
        return NEVER

    def put_all(self, directory: Path, names: Iterable[str]) -> None:
        """Store objects that are staged in a directory, several at once."""
        self._each(lambda name: self._put(directory / name, name), names)

    def _put(self, file: Path, name: str) -> None:
        try:
            stored = file.read_bytes()
        except OSError as error:
            raise RepositoryError(
                f"while duccmake stored {file} in {self._settings.url}: {error.strerror}",
                hint="run again",
            ) from error
        key = self._key(storage_path(name))
        answer = self._bucket.answer("PUT", key, stored, self._headers)
        if answer.status not in (200, 201):
            raise self._failed("PUT", key, answer)

    def delete(self, name: str) -> None:
        """Delete an object; nothing is fine as well."""
        key = self._key(storage_path(name))
        answer = self._bucket.answer("DELETE", key)
        if answer.status not in (200, 202, 204, 404):
            raise self._failed("DELETE", key, answer)

    def sync(self) -> None:
        """Nothing is left to do: the server has answered for each object."""

    def sync_object(self, name: str) -> None:
        """A bucket has what it has said it has."""

    def clear(self) -> None:
        """Nothing in a bucket is half stored."""

    def file(self, name: str) -> bytes:
        """One of the files that are no objects; `NotThere`."""
        key = self._key(name)
        answer = self._bucket.answer("GET", key)
        if answer.status in (403, 404):
            raise NotThere(
                f"{self._bucket.url(key)} is not there, or may not be read: "
                f"status {answer.status} {code_of(answer)}".rstrip(),
                hint=_HINT,
            )
        if answer.status != 200:
            raise self._failed("GET", key, answer)
        return answer.data

    def _size(self, name: str) -> int:
        """How many bytes an object has; 0 where it is not there."""
        key = self._key(storage_path(name))
        answer = self._bucket.answer("HEAD", key)
        if answer.status in (403, 404):
            return 0
        if answer.status != 200:
            raise self._failed("HEAD", key, answer)
        return int(answer.headers.get("Content-Length") or 0)

    def _key(self, path: str) -> str:
        return f"{self._settings.alias}/{path}"

    def _each(self, do: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Do something for each item, as many at once as there may be connections."""
        with ThreadPoolExecutor(self._settings.connections) as pool:
            return list(pool.map(do, items))  # after a failure no other begins

    def _failed(self, method: str, key: str, answer: BaseHTTPResponse) -> DuccmakeError:
        code = code_of(answer)
        if answer.status == 507 or code in _FULL:
            return NoSpace(
                f"no space left in the repository's storage {self._settings.url}: {code}",
                hint="make room there and run again",
            )
        return RepositoryError(
            f"{method} {self._bucket.url(key)} was answered with status {answer.status} "
            f"{code}".rstrip(),
            hint=_HINT,
        )
