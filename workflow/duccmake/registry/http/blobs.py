"""Blobs at an address: of a registry, or a foreign one."""

from __future__ import annotations

from urllib.parse import urlsplit

from .endpoints import Endpoint
from .host import Response
from .limits import Pace
from .retry import Patience
from .transport import Call, Transport


class RemoteBlob:
    """A blob at an address; without endpoint, at a foreign one that gets no credentials."""

    def __init__(
        self, transport: Transport, url: str, endpoint: Endpoint | None, patience: Patience | None
    ) -> None:
        self._transport = transport
        self._url = url
        self._scope = endpoint.pull if endpoint else None
        self._patience = patience
        parts = urlsplit(url)
        self._host = transport.host(parts.scheme, parts.netloc)

    @property
    def pace(self) -> Pace:
        """The bytes a second of the registry's settings."""
        return self._host.bytes_pace

    @property
    def place(self) -> str:
        """The host."""
        return self._host.name

    def open(self, offset: int, size: int) -> Response:
        """Ask for the rest from ``offset`` on; some servers know no range without an end."""
        headers = {"Range": f"bytes={offset}-{size - 1}"} if offset else {}
        gone = frozenset({416})
        call = Call("GET", self._url, self._scope, headers, accept=gone, is_verified=True)
        return self._transport.open(call, patience=self._patience)
