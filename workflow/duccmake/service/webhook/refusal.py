"""Requests that are not heeded: what is answered, and bodies that are read only so far."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

BODY_SECONDS = 30.0
"""How long a sender may take for its request's body."""

_HANG_UP = {"Connection": "close"}
"""What remains of a body is not read."""


class Refusal(Exception):
    """A request is answered with an error; ``words`` are for whoever sent it."""

    def __init__(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.words = words
        self.headers = headers

    def answer(self) -> Response:
        """The answer."""
        return JSONResponse({"error": self.words}, self.status, self.headers)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; `Refusal` where it does not come, or is longer than it may be.

    One that is not much longer is read to its end all the same: an answer to a sender
    that has not sent all yet can be lost.
    """
    body, taken = b"", 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                taken += len(piece)
                if taken > 2 * max_bytes:
                    break
                body += piece
    except TimeoutError:
        raise Refusal(408, "the body did not come in time", _HANG_UP) from None
    except ClientDisconnect:
        raise Refusal(400, "the body did not come whole") from None
    if taken > max_bytes:
        raise Refusal(413, f"more than {max_bytes} bytes", _HANG_UP)
    return body
