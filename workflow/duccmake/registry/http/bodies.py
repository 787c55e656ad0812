"""Bodies of answers: read whole within a limit, and as what they are."""

from __future__ import annotations

import json
import zlib
from urllib.parse import urlsplit

from ...errors import RegistryError, RegistryUnavailable
from .host import Response
from .retry import Deadline, TryAgain

_CHUNK = 64 * 1024
_ERROR_LIMIT = 64 * 1024
_ERROR_SECONDS = 10.0


def read_body(response: Response, limit: int, deadline: Deadline) -> bytes:
    """The whole body, decoded where a proxy encoded it: some only say so.

    Raises `TryAgain` where it breaks off, `RegistryError` where it is over ``limit`` bytes.
    """
    host = urlsplit(response.url).netloc
    too_much = RegistryError(f"{host} sends more than the {limit} bytes that are accepted")
    gathered = bytearray()
    for piece in response.pieces(_CHUNK, decode=False):
        gathered += piece
        if len(gathered) > limit:
            raise too_much
        if not deadline.remaining:
            raise TryAgain(RegistryUnavailable(f"{host} is too slow with its answer"))
    body = bytes(gathered)
    for _ in filter(None, response.headers.get("Content-Encoding", "").split(",")):
        body = _inflated(body, limit)
    if len(body) > limit:
        raise too_much
    return body


def _inflated(body: bytes, limit: int) -> bytes:
    """What a gzip or deflate holds, or just over ``limit`` bytes of it; what is none as it is."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, limit + 1)
    except zlib.error:
        return body


def registry_words(response: Response) -> tuple[str, str]:
    """A registry's error (distribution-spec, "Error Codes"): its code, and code and message."""
    try:
        members = json.loads(read_body(response, _ERROR_LIMIT, Deadline(_ERROR_SECONDS)))
        error = members["errors"][0]
        code = str(error.get("code") or "")
        words = f"{code} {error.get('message') or ''}"
    except (TryAgain, RegistryError):
        return "", ""
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "", ""
    words = "".join(char if char.isprintable() else " " for char in words).strip()
    return code, f" ({words[:200]})" if words else ""
