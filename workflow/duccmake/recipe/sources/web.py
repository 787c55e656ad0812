"""Wish lists at http(s) addresses."""

from __future__ import annotations

from dataclasses import dataclass

import requests

from ...errors import RecipeError
from ..document import MAX_BYTES
from .git import credentials
from .location import Source

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What an address holds: ``content`` is None where it is what ``etag`` named before."""

    content: bytes | None
    etag: str


def fetch(source: Source, etag: str = "") -> Fetched:
    """Get the wish list, unless it still has that ``etag``; `RecipeError` where that fails.

    Credentials come from the environment variables that the source names, or from
    netrc; they do not follow a redirect to another host.
    """
    headers = {"Accept": "text/plain, application/yaml, */*;q=0.5"}
    if etag:
        headers["If-None-Match"] = etag
    auth = credentials(source) if source.password_env else None
    try:
        with requests.get(
            source.url,
            headers=headers,
            auth=auth,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            stream=True,
        ) as answer:
            _check_way(answer)
            if etag and answer.status_code == 304:
                return Fetched(None, etag)
            if answer.status_code != 200:
                raise RecipeError(
                    f"{source.url} answers {answer.status_code} {answer.reason}", hint=_HINT
                )
            return Fetched(_body(source, answer), answer.headers.get("ETag", ""))
    except requests.RequestException as error:
        raise RecipeError(f"{source.url} cannot be read: {_why(error)}", hint=_HINT) from None


_HINT = "see whether the address is right and its server is up"


def _check_way(answer: requests.Response) -> None:
    urls = [step.url for step in (*answer.history, answer)]
    if urls[0].startswith("https:") and any(not url.startswith("https:") for url in urls):
        raise RecipeError(
            f"{urls[0]} redirects to http, where anybody may answer",
            hint="name the address that it should lead to",
        )


def _body(source: Source, answer: requests.Response) -> bytes:
    body = b""
    for piece in answer.iter_content(65536):
        body += piece
        if len(body) > MAX_BYTES:
            raise RecipeError(
                f"{source.url} holds more than {MAX_BYTES // 1024**2} MiB",
                hint="split it: 'recipe' in the configuration may be a list",
            )
    return body


def _why(error: requests.RequestException) -> str:
    """The cause at the bottom; what is above it repeats the address in many words."""
    cause: BaseException = error
    while (below := cause.__cause__ or cause.__context__) is not None:
        cause = below
    return str(cause)[:300] or type(error).__name__
