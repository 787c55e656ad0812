"""Signed requests to a bucket, made again where a server or the way to it has failed."""

from __future__ import annotations

import logging
import random
import re
import time
from base64 import b64encode
from collections.abc import Mapping
from functools import cached_property
from hashlib import md5
from typing import TYPE_CHECKING

from ...errors import RepositoryError
from .s3_settings import S3Settings

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

log = logging.getLogger(__name__)

_FAULTS = frozenset({408, 409, 500, 502, 503, 504})
"""Statuses of requests that are worth another try."""

_FAULTY = frozenset({"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"})
"""The same, by S3's names: what came was not what was sent."""

_TOO_MANY = 429
_PATIENCE = 60
"""How often a request that was one too many is made again: up to ten minutes."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_LONGEST_ASKED_FOR = 10.0
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,60})</Code>")
_PAUSE = re.compile(r"\s*([0-9]{1,9})\s*(ms)?\s*", re.IGNORECASE)


class Bucket:
    """The bucket of ``settings``; several threads may use it."""

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings

    def answer(
        self,
        method: str,
        key: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> BaseHTTPResponse:
        """The answer to a request for the object with a key, whatever its status.

        `RepositoryError` where none comes.
        """
        from urllib3.exceptions import HTTPError  # slow to import

        faults = throttles = 0
        while True:
            asked_for = None
            try:
                answer = self._ask(method, key, body, headers or {})
            except HTTPError as error:
                faults += 1
                problem = _without_addresses(error)
                if faults > self.settings.retries:
                    raise RepositoryError(
                        f"{method} {self.url(key)} failed {faults} times: {problem}",
                        hint="check that the S3 server is up, and CVMFS_S3_HOST and _PORT",
                    ) from None
            else:
                asked_for = _asked_for(answer)
                problem = f"status {answer.status} {code_of(answer)}".rstrip()
                if answer.status == _TOO_MANY:
                    throttles += 1
                elif _is_fault(method, answer):
                    faults += 1
                else:
                    return answer
                if faults > self.settings.retries or throttles > _PATIENCE:
                    return answer
            pause = _pause(faults + throttles) if asked_for is None else asked_for
            log.info("%s %s: %s; once more in %.1f s", method, self.url(key), problem, pause)
            time.sleep(pause)

    def url(self, key: str) -> str:
        """Where the object with a key is."""
        return f"{self.settings.url}/{key}"

    @cached_property
    def _pool(self) -> PoolManager:
        from urllib3 import PoolManager, ProxyManager, Timeout  # slow to import

        settings = self.settings
        timeout = Timeout(settings.seconds)
        if settings.proxy:
            return ProxyManager(
                settings.proxy, maxsize=settings.connections, block=True, timeout=timeout
            )
        return PoolManager(maxsize=settings.connections, block=True, timeout=timeout)

    def _ask(
        self, method: str, key: str, body: bytes, headers: Mapping[str, str]
    ) -> BaseHTTPResponse:
        return self._pool.request(
            method,
            self.url(key),
            body=body or None,
            headers=self._signed(method, key, body, headers),
            retries=False,
            redirect=False,
            decode_content=False,
        )

    def _signed(
        self, method: str, key: str, body: bytes, headers: Mapping[str, str]
    ) -> dict[str, str]:
        from botocore.auth import HmacV1Auth, S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        settings = self.settings
        request = AWSRequest(
            method=method,
            url=self.url(key),
            data=body,
            headers=dict(headers),
            # V2 signs the bucket's name where the host has it as well.
            auth_path=f"/{settings.bucket}/{key}",
        )
        if body:
            # The server refuses what has changed on the way.
            digest = md5(body, usedforsecurity=False).digest()
            request.headers["Content-MD5"] = b64encode(digest).decode()
        credentials = Credentials(settings.access_key, settings.secret_key)
        if settings.signature == "V4":
            S3SigV4Auth(credentials, "s3", settings.region).add_auth(request)
        else:
            HmacV1Auth(credentials).add_auth(request)
        return dict(request.headers.items())


def _is_fault(method: str, answer: BaseHTTPResponse) -> bool:
    if method == "HEAD" and answer.status == 400:
        return True  # without a body it cannot say why
    return answer.status in _FAULTS or code_of(answer) in _FAULTY


def code_of(answer: BaseHTTPResponse) -> str:
    """What S3 calls the error that it answers; empty where there is none.

    The rest of it may repeat what was signed, and is never shown.
    """
    if answer.status < 300:
        return ""
    match = _CODE.search(answer.data)
    return match[1].decode() if match else ""


def _asked_for(answer: BaseHTTPResponse) -> float | None:
    """The pause that an answer asks for, in seconds, as far as it is heeded."""
    text = answer.headers.get("Retry-After") or answer.headers.get("X-Retry-In") or ""
    match = _PAUSE.fullmatch(text)
    if match is None:
        return None
    return min(int(match[1]) / (1000 if match[2] else 1), _LONGEST_ASKED_FOR)


def _pause(tries: int) -> float:
    """The pause after so many tries, of some chance, so that not all come at once."""
    longest = min(_FIRST_PAUSE * 2.0**tries, _LONGEST_PAUSE)
    return random.uniform(longest / 2, longest)


def _without_addresses(error: Exception) -> str:
    """What happened, without the objects of Python that it happened to."""
    return re.sub(r"<[^>]* object at 0x[0-9a-f]+>[:,]?\s*", "", str(error))
