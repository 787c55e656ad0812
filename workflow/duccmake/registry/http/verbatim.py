"""Requests for addresses letter by letter, and answers behind what comes ahead of them.

What is signed is good as it came alone, and urllib3 quotes an address anew before it
asks for it.
"""

from __future__ import annotations

import http.client
import re
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

TARGET = "X-Request-Target"
"""The header, which is never sent, that brings a request's target past urllib3."""

_ADDRESS = re.compile(r"(https?://[^/?#]*)([^#]*)", re.IGNORECASE)
_MOST_INTERIM = 10
_UNFIT = re.compile(r"[^!-~]+")
"""What no request line may hold (RFC 9112, 3.2)."""


def target_of(url: str, *, whole: bool) -> str:
    """What a request line names: all that follows the host, or the ``whole`` address."""
    found = _ADDRESS.match(url)
    host, behind = found.groups() if found else ("", url)
    behind = _UNFIT.sub(_quoted, behind if behind.startswith("/") else f"/{behind}")
    return f"{host}{behind}" if whole else behind


def verbatim(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """The same manager, with connections that heed `TARGET`."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager


def _quoted(found: re.Match[str]) -> str:
    # Headers are bytes, which urllib3 reads as Latin-1.
    return "".join(f"%{byte:02X}" for byte in found[0].encode("latin-1", "replace"))


class _Response(http.client.HTTPResponse):
    """An answer that others may come ahead of (RFC 9110, 15.2), such as 103 with hints."""

    def begin(self) -> None:
        for _ in range(_MOST_INTERIM):
            super().begin()
            if self.status >= 200:
                return
            self.headers = self.msg = None  # type: ignore[assignment]
        raise http.client.BadStatusLine(str(self.status))


class _Connection(HTTPConnection):
    response_class = _Response

    def request(
        self, method: str, url: str, body: Any = None, headers: Any = None, **more: Any
    ) -> None:
        kept = dict(headers)
        super().request(method, kept.pop(TARGET, url), body, kept, **more)


class _TlsConnection(_Connection, HTTPSConnection):
    """The same by https."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
