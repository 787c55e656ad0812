"""Answers that have to make sense: manifests checked against their digests, and their like."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from ..errors import (
    DigestMismatch,
    DuccmakeError,
    InvalidReference,
    ManifestError,
    RegistryUnavailable,
    UnsupportedImage,
)
from ..oci.manifest import Index, Manifest, parse_manifest
from ..oci.reference import Digest
from .damaged import MOST
from .http.retry import Patience
from .http.transport import Call, Reply, Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Verified:
    """Exchanges whose bodies have to make sense: proxies damage bodies, too.

    What did not in all tries is not asked for again.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._spoilt: dict[str, DuccmakeError] = {}

    def ask(
        self, call: Call, parse: Callable[[Reply], T], limit: int, patience: Patience | None
    ) -> T:
        """What ``parse`` makes of the answer, of at most ``limit`` bytes; asked for twice at most.

        Raises what the exchange does, and the `DigestMismatch` or `ManifestError` of ``parse``.
        """
        if call.url in self._spoilt:
            raise copy.copy(self._spoilt[call.url])
        for count in range(1, MOST + 1):
            reply = self._transport.exchange(call, limit=limit, patience=patience)
            try:
                return parse(reply)
            except (DigestMismatch, ManifestError) as error:
                if isinstance(error, UnsupportedImage):
                    raise
                if count == MOST:
                    self._spoilt[call.url] = _said(reply, error)
                    raise copy.copy(self._spoilt[call.url]) from None
                logger.info("%s; asking again", error.found)
        raise AssertionError("the last try returns or raises")


def _said(reply: Reply, error: DuccmakeError) -> DuccmakeError:
    """The error, unless a page for people came: that says nothing about the image."""
    if reply.body.lstrip()[:1] != b"<":
        return error
    return RegistryUnavailable(
        f"{urlsplit(reply.url).netloc} answers with a page for people: {error.found}",
        hint="see whether a proxy or a login page answers instead of the registry",
    )


def named_digest(reply: Reply) -> Digest | None:
    """The digest of its content that an answer names; what is no digest names none."""
    try:
        return Digest.parse(reply.headers.get("Docker-Content-Digest", "").strip())
    except InvalidReference:
        return None


def parse_manifest_of(reply: Reply, wanted: str) -> Manifest | Index:
    """Check the bytes against every digest that is known of them, then parse."""
    algorithm = check_digests(reply, wanted)
    return parse_manifest(reply.body, reply.headers.get("Content-Type", ""), algorithm=algorithm)


def check_digests(reply: Reply, wanted: str) -> str:
    """Raise `DigestMismatch` where the bytes are not what was asked for, or what they are called.

    Returns the algorithm of the digest that was asked for.
    """
    asked = Digest.parse(wanted) if ":" in wanted else None
    for digest in filter(None, (asked, named_digest(reply))):
        found = hashlib.new(digest.algorithm, reply.body).hexdigest()
        if found != digest.hex:
            raise DigestMismatch(
                f"a manifest with {digest.algorithm}:{found} came where {digest} was promised",
                hint="the registry or a proxy serves damaged content: ask its operator",
            )
    return asked.algorithm if asked else "sha256"
