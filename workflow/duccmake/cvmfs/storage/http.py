"""A storage that is only read, through a web server: ``CVMFS_STRATUM0``, or a replica."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RepositoryError
from ..names import storage_path
from . import NEVER, PUBLISHED, Mark, NotThere, checked

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

_SECONDS = 60.0
_TRIES = 3


class HttpStorage:
    """The storage at ``url``, which answers within so many ``seconds``, at one of some tries.

    Never through a proxy, which would keep in mind what was not there a moment ago.
    """

    def __init__(self, url: str, *, seconds: float = _SECONDS, tries: int = _TRIES) -> None:
        self._url = url.rstrip("/")
        self._seconds = seconds
        self._tries = tries

    def get(self, name: str) -> bytes:
        """An object as it is stored, its hash checked; `NotThere`."""
        return checked(name, self._answer("GET", storage_path(name)).data)

    def has(self, names: Collection[str]) -> set[str]:
        """Those of the objects that are there; one request for each."""
        there = set()
        for name in names:
            try:
                self._answer("HEAD", storage_path(name))
            except NotThere:
                continue
            there.add(name)
        return there

    def lacking(self, sizes: Mapping[str, int]) -> set[str]:
        """Always `RepositoryError`: nothing can be stored through a web server."""
        raise self._read_only()

    def lost(self, sizes: Mapping[str, int], since: Mark) -> set[str]:
        """Always `RepositoryError`."""
        raise self._read_only()

    def mark(self) -> Mark:
        """Always `NEVER`."""
        return NEVER

    def put_all(self, directory: Path, names: Iterable[str]) -> None:
        """Always `RepositoryError`."""
        raise self._read_only()

    def delete(self, name: str) -> None:
        """Always `RepositoryError`."""
        raise self._read_only()

    def clear(self) -> None:
        """Nothing was stored."""

    def sync(self) -> None:
        """Nothing was stored."""

    def sync_object(self, name: str) -> None:
        """Nothing was stored."""

    def file(self, name: str) -> bytes:
        """One of the files that are no objects; `NotThere`."""
        return self._answer("GET", name).data

    @cached_property
    def _pool(self) -> PoolManager:
        from urllib3 import PoolManager, Retry, Timeout  # slow to import

        retry = Retry(self._tries, status_forcelist=(500, 502, 503, 504), backoff_factor=0.5)
        return PoolManager(retries=retry, timeout=Timeout(self._seconds))

    def _answer(self, method: str, path: str) -> BaseHTTPResponse:
        from urllib3.exceptions import HTTPError  # slow to import

        url = f"{self._url}/{path}"
        headers = {"Cache-Control": "no-cache"} if path == PUBLISHED else {}
        try:
            answer = self._pool.request(method, url, headers=headers, decode_content=False)
        except HTTPError as error:
            raise RepositoryError(
                f"{url} cannot be read: {error}", hint="check the web server of the stratum 0"
            ) from error
        if answer.status == 404:
            raise NotThere(f"{url} is not there", hint="have the storage checked")
        if answer.status != 200:
            raise RepositoryError(
                f"{url} cannot be read: status {answer.status}",
                hint="check the web server of the stratum 0",
            )
        return answer

    def _read_only(self) -> RepositoryError:
        return RepositoryError(
            f"nothing can be stored at {self._url}",
            hint="publish on the machine that has the repository's storage",
        )
