"""The keys with which an issuer signs its tokens, as it publishes them (RFC 7517).

Where they are, the issuer itself says (OpenID Connect Discovery 1.0, section 4).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
import requests

logger = logging.getLogger(__name__)

_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
"""Signatures that only who has the private key can make, by the type of the key (RFC 7518)."""

ALGORITHMS = frozenset(name for names in _FAMILIES.values() for name in names)

_RSA_BITS = 2048
"""RFC 7518, section 3.3: a shorter key must not be used."""

FRESH_SECONDS = 3600.0
"""So long keys are believed before they are asked for again."""

STALE_SECONDS = 86400.0
"""So long they are believed while the issuer does not answer."""

PAUSE_SECONDS = 30.0
"""The issuer is asked at most once in so long, whatever tokens name: anybody can make some."""

_REQUEST_SECONDS = 10.0
_MAX_BYTES = 1024**2
_MAX_WAITING = 4


class KeysUnavailable(Exception):
    """The issuer does not say what its keys are, and none are known."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and the algorithms that a signature with it may have."""

    kid: str
    algorithms: tuple[str, ...]
    public: Any


def fetch(url: str) -> Any:
    """The JSON at an address; `OSError` or `ValueError` where there is none."""
    deadline = time.monotonic() + _REQUEST_SECONDS
    # An issuer that moves says so to people: whoever answers elsewhere is somebody else.
    with requests.get(url, timeout=_REQUEST_SECONDS, stream=True, allow_redirects=False) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{url} answers {answer.status_code}")
        content = b""
        for piece in answer.iter_content(65536):
            content += piece
            if len(content) > _MAX_BYTES or time.monotonic() > deadline:
                raise ValueError(f"{url} answers too much, or too slowly")
    return json.loads(content)


class IssuerKeys:
    """The keys of ``issuer``, which are at ``url`` if that is not for the issuer to say."""

    def __init__(
        self,
        issuer: str,
        url: str = "",
        *,
        get: Callable[[str], Any] = fetch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._url = url
        self._get = get
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._fetched = self._tried = float("-inf")
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MAX_WAITING)

    def named(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The keys that a token may be signed with; none where the issuer has no such key.

        A token need not name a key where there is one alone.  Raises `KeysUnavailable`.
        """
        known = self._fitting(kid, algorithm)
        if known and self._clock() - self._fetched < FRESH_SECONDS:
            return known
        if not self._waiting.acquire(blocking=False):
            raise KeysUnavailable("too many wait for the keys of the issuer")
        try:
            with self._lock:
                self._renew(kid, algorithm)
        finally:
            self._waiting.release()
        if self._clock() - self._fetched >= STALE_SECONDS:
            raise KeysUnavailable("the keys of the issuer cannot be had")
        return self._fitting(kid, algorithm)

    def _fitting(self, kid: str | None, algorithm: str) -> list[Key]:
        keys = [key for key in self._keys if kid is None or key.kid == kid]
        if kid is None and len(keys) > 1:
            return []
        return [key for key in keys if algorithm in key.algorithms]

    def _renew(self, kid: str | None, algorithm: str) -> None:
        """Ask the issuer, unless that was a moment ago or somebody else has done so meanwhile."""
        now = self._clock()
        is_fresh = now - self._fetched < FRESH_SECONDS
        if now - self._tried < PAUSE_SECONDS or (is_fresh and self._fitting(kid, algorithm)):
            return
        self._tried = now
        try:
            keys = tuple(_usable(self._get(self._url or self._discovered())))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            logger.warning("the keys of %s cannot be had: %s", self._issuer, error)
            return
        self._keys, self._fetched = keys, now

    def _discovered(self) -> str:
        """Where the issuer has its keys, by its own word."""
        found = self._get(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found["issuer"] != self._issuer:
            raise ValueError(f"it calls itself {found['issuer']!r}")
        url = found["jwks_uri"]
        if not isinstance(url, str) or not url.startswith(f"{self._issuer.partition('://')[0]}://"):
            raise ValueError(f"its keys are at {url!r}")
        return url


def _usable(members: Any) -> list[Key]:
    """The keys of a set that signatures may be checked with."""
    found = []
    for member in members["keys"]:
        try:
            key = _parsed(member)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue  # others may know what to do with it
        if key is not None:
            found.append(key)
    return found


def _parsed(member: Any) -> Key | None:
    """One key; None for a secret, one that is for something else, or one that is too short."""
    kind, use = member.get("kty"), member.get("use", "sig")
    if kind not in _FAMILIES or use != "sig" or "d" in member:
        return None
    known = jwt.PyJWK(member)
    named = member.get("alg") is not None or kind != "RSA"
    algorithms = (known.algorithm_name,) if named else _FAMILIES[kind]
    if not set(algorithms) <= set(_FAMILIES[kind]):
        return None
    if kind == "RSA" and known.key.key_size < _RSA_BITS:
        return None
    return Key(str(member.get("kid", "")), tuple(algorithms), known.key)
