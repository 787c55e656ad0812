"""The ASGI application: a path for each sender, and little else that it answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...workspace.event_log import EventLog
from ..notices import Notice, NoticeQueue, QueueFull
from . import pages
from .coverage import WishLists
from .formats import READERS
from .secrets import is_genuine

logger = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""How long a sender may take for its request's body."""

_HANG_UP = {"Connection": "close"}
"""What remains of a body is not read."""

MAX_IMAGES = 1000
"""A notification of more images than these has all of them polled."""


class Listener:
    """Hears notifications and leaves notices in the queue."""

    def __init__(
        self,
        wished: WishLists,
        queue: NoticeQueue,
        secrets: Mapping[str, str],
        *,
        max_bytes: int,
        events: EventLog,
    ) -> None:
        self._wished = wished
        self._queue = queue
        self._secrets = secrets
        self._max_bytes = max_bytes
        self._events = events

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/healthz", self._health, methods=["GET"]),
                *pages.routes(),
                Route("/{sender:str}", self._hear, methods=["POST"]),
                # Nothing is redirected, to a slash less or otherwise: not every sender follows.
                Route("/{sender:str}/{secret:path}", self._hear, methods=["POST"]),
            ]
        )

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"waiting": await run_in_threadpool(self._queue.waiting)})

    async def _hear(self, request: Request) -> Response:
        sender = request.path_params["sender"]
        if sender not in READERS:
            return _answer(404, f"no such sender; known are {', '.join(READERS)}")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(request)
        except TimeoutError:
            return _answer(408, "the body did not come in time", _HANG_UP)
        except ClientDisconnect:
            return _answer(400, "the body did not come whole")
        if body is None:
            return _answer(413, f"more than {self._max_bytes} bytes", _HANG_UP)
        secret = self._secrets.get(sender, "")
        path_secret = request.path_params.get("secret", "")
        if not is_genuine(secret, request.headers, body, path_secret):
            logger.warning("refused a request for /%s: wrong secret or signature", sender)
            return _answer(401, "wrong secret or signature")
        try:
            members = json.loads(_content(request, body))
        except (ValueError, RecursionError):
            return _answer(400, "not JSON")
        try:
            waiting = await run_in_threadpool(self._keep, sender, members)
        except (QueueFull, OSError) as error:
            logger.error("a notice of /%s could not be kept: %s", sender, error)
            return _answer(503, "cannot be kept now", {"Retry-After": "30"})
        return JSONResponse({"images": waiting})

    def _keep(self, sender: str, members: Any) -> int:
        """Leave notices for what is wished for; how many images that is."""
        notices: dict[Notice, None] = {}
        for notification in READERS[sender](members):
            notices |= dict.fromkeys(self._wished.notices(notification, sender))
            if len(notices) > MAX_IMAGES:
                notices = {Notice("", "push", sender): None}
                break
        for notice in notices:
            if self._queue.put(notice):
                self._events.emit(
                    "receive_notice", image=notice.image, sender=sender, notice=notice.action
                )
        return len(notices)

    async def _body(self, request: Request) -> bytes | None:
        """The whole body, or None where it is longer than it may be.

        One that is not much longer is read to its end all the same: an answer to a sender
        that has not sent all yet can be lost.
        """
        body, taken = b"", 0
        async for piece in request.stream():
            taken += len(piece)
            if taken > 2 * self._max_bytes:
                break
            body += piece
        return body if taken <= self._max_bytes else None


def _content(request: Request, body: bytes) -> bytes:
    """The JSON of a body: all of it, or a field of a form, as GitHub sends it unless told else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded" or body.lstrip().startswith(b"{"):
        return body
    return parse_qs(body, max_num_fields=10).get(b"payload", [b""])[0]


def _answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)
