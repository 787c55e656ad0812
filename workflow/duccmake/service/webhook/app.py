"""The ASGI application: a path for each sender, and little else that it answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...workspace.event_log import EventLog
from ..notices import Notice, NoticeQueue, QueueFull
from . import pages
from .coverage import WishLists
from .formats import READERS
from .refusal import Refusal, read_body
from .secrets import is_genuine

logger = logging.getLogger(__name__)

MAX_IMAGES = 1000
"""A notification of more images than these has all of them polled."""


class Listener:
    """Hears notifications and leaves notices in the queue; ``others`` are routes beside these."""

    def __init__(
        self,
        wished: WishLists,
        queue: NoticeQueue,
        secrets: Mapping[str, str],
        *,
        max_bytes: int,
        events: EventLog,
        others: Sequence[Route] = (),
    ) -> None:
        self._wished = wished
        self._queue = queue
        self._secrets = secrets
        self._max_bytes = max_bytes
        self._events = events
        self._others = others

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/healthz", self._health, methods=["GET"]),
                *pages.routes(),
                *self._others,
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
            return Refusal(404, f"no such sender; known are {', '.join(READERS)}").answer()
        try:
            images = await self._heed(sender, request)
        except Refusal as refusal:
            return refusal.answer()
        return JSONResponse({"images": images})

    async def _heed(self, sender: str, request: Request) -> int:
        """Hear a notification; how many images notices wait for then."""
        body = await read_body(request, self._max_bytes)
        secret = self._secrets.get(sender, "")
        path_secret = request.path_params.get("secret", "")
        if not is_genuine(secret, request.headers, body, path_secret):
            logger.warning("refused a request for /%s: wrong secret or signature", sender)
            raise Refusal(401, "wrong secret or signature")
        try:
            members = json.loads(_content(request, body))
        except (ValueError, RecursionError):
            raise Refusal(400, "not JSON") from None
        try:
            return await run_in_threadpool(self._keep, sender, members)
        except (QueueFull, OSError) as error:
            logger.error("a notice of /%s could not be kept: %s", sender, error)
            raise Refusal(503, "cannot be kept now", {"Retry-After": "30"}) from None

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


def _content(request: Request, body: bytes) -> bytes:
    """The JSON of a body: all of it, or a field of a form, as GitHub sends it unless told else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded" or body.lstrip().startswith(b"{"):
        return body
    return parse_qs(body, max_num_fields=10).get(b"payload", [b""])[0]
