"""Progress as server-sent events (the HTML standard, "Server-sent events")."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...run.whereabouts import FINAL
from .refusal import Refusal

STREAMS = 64
"""So many are open at a time."""

STREAMS_EACH = 8
"""So many of one conversion."""

COMMENT_SECONDS = 15.0
"""After so long without an event a comment keeps proxies from hanging up."""

_LOOK_SECONDS = 0.5
_RECONNECT = b"retry: 3000\n\n"

_HEADERS = {
    "Cache-Control": "no-store, no-transform",
    # nginx and what understands it hand each event on at once.
    "X-Accel-Buffering": "no",
}
_TYPE = "text/event-stream"

Look = Callable[[], Mapping[str, Any] | None]


class Streams:
    """All streams of a service; those end when it is ``stopping``."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._open: Counter[str] = Counter()

    @property
    def number(self) -> int:
        """How many are open."""
        return self._open.total()

    def answer(
        self, request: Request, identity: str, now: Mapping[str, Any], look: Look
    ) -> Response:
        """A stream of what ``look`` finds, which is ``now`` that, until that is final.

        `Refusal` where there are too many.  Who has heard the end already is told to come no more.
        """
        if request.method == "HEAD":
            return Response(headers=_HEADERS, media_type=_TYPE)
        heard = request.headers.get("last-event-id", "")
        if _is_final(now) and _identity(now) == heard:
            return Response(status_code=204, headers=_HEADERS)
        if self.number >= STREAMS or self._open[identity] >= STREAMS_EACH:
            raise Refusal(503, "too many streams of events are open", {"Retry-After": "30"})
        return _Stream(self._open, identity, self._events(look, heard))

    async def _events(self, look: Look, heard: str) -> AsyncIterator[bytes]:
        yield _RECONNECT
        told = time.monotonic()
        while not self._stopping():
            now = await run_in_threadpool(look)
            if now is None:
                return
            if (identity := _identity(now)) != heard:
                heard, told = identity, time.monotonic()
                yield f"id: {identity}\ndata: {json.dumps(now)}\n\n".encode()
            if _is_final(now):
                return
            if time.monotonic() - told >= COMMENT_SECONDS:
                told = time.monotonic()
                yield b": still there\n\n"
            await asyncio.sleep(_LOOK_SECONDS)


class _Stream(StreamingResponse):
    """A stream that is counted for as long as it is answered.

    An iterator that nobody has begun to read has no end of its own, so that the counting is not
    for it to do.
    """

    def __init__(self, counted: Counter[str], identity: str, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, headers=_HEADERS, media_type=_TYPE)
        self._counted = counted
        self._identity = identity
        counted[identity] += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._counted[self._identity] -= 1
            if not self._counted[self._identity]:
                del self._counted[self._identity]


def _identity(members: Mapping[str, Any]) -> str:
    """What an event goes by: what it says, so that it is the same after a restart."""
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()[:16]


def _is_final(members: Mapping[str, Any]) -> bool:
    return members["state"] in FINAL
