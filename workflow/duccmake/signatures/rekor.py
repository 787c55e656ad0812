"""Entries of a transparency log: signed by it, and about this signature and no other.

What a log signs at once is the *signed entry timestamp* (SET), over the entry's body, its index
and when it was integrated, in canonical JSON (RFC 8785).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ..oci.json_object import JsonObject
from .keys import PublicKey, checked_key, der, is_signed_by
from .reading import NotSatisfied, decoded, has_just, refusing

_EXACT = 2**53
"""From here on, numbers of canonical JSON are not told apart (RFC 8785, 3.2.2.3)."""

_HASHES = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as the log signed it; ``time`` is in seconds since the epoch."""

    body: bytes
    time: int
    index: int
    log: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Logged:
    """What an entry has to be about: a signature, what it signs, and who verifies it (DER)."""

    signature: bytes
    content: bytes
    verifier: bytes
    is_envelope: bool = False


def parse_entry(text: str) -> Entry:
    """The entry in cosign's annotation ``dev.sigstore.cosign/bundle``."""
    with refusing("the transparency log's entry"):
        top = JsonObject.parse(text.encode(), "the transparency log's entry")
        has_just(top, "SignedEntryTimestamp", "Payload")
        payload = top.nested("Payload")
        has_just(payload, "body", "integratedTime", "logIndex", "logID")
        return Entry(
            decoded(payload.text("body")),
            payload.size("integratedTime"),
            payload.size("logIndex"),
            payload.text("logID"),
            decoded(top.text("SignedEntryTimestamp")),
        )


def check_entry(entry: Entry, logs: Iterable[PublicKey], logged: Logged) -> None:
    """Hold an entry to the keys of trusted logs and to what it has to be about."""
    if not re.fullmatch(r"[0-9a-f]*", entry.log) or max(entry.time, entry.index) >= _EXACT:
        raise NotSatisfied("the transparency log's entry has an odd index, time or log")
    signed = json.dumps(
        {
            "body": base64.b64encode(entry.body).decode(),
            "integratedTime": entry.time,
            "logID": entry.log,
            "logIndex": entry.index,
        },
        separators=(",", ":"),
    ).encode()
    if not any(is_signed_by(log, entry.signature, signed) for log in logs):
        raise NotSatisfied("no trusted transparency log has signed its entry")
    with refusing("the transparency log's entry"):
        _check_body(JsonObject.parse(entry.body, "the transparency log's entry"), logged)


def _check_body(body: JsonObject, logged: Logged) -> None:
    kind = (body.text("kind"), body.text("apiVersion"))
    spec = body.nested("spec")
    if kind == ("hashedrekord", "0.0.1") and not logged.is_envelope:
        signature = spec.nested("signature")
        signed, verifier = signature.text("content"), signature.nested("publicKey").text("content")
        hashed = spec.nested("data").nested("hash")
    elif kind == ("dsse", "0.0.1") and logged.is_envelope:
        signatures = [JsonObject.of(item, "a signature") for item in spec.array("signatures")]
        if len(signatures) != 1:
            raise NotSatisfied(f"the log's entry has {len(signatures)} signatures in place of one")
        signed, verifier = signatures[0].text("signature"), signatures[0].text("verifier")
        hashed = spec.nested("payloadHash")
    else:
        raise NotSatisfied(f"the log's entry is of the kind {' '.join(kind)!r}")
    if not hmac.compare_digest(decoded(signed), logged.signature):
        raise NotSatisfied("the log's entry is about another signature")
    if _der_of(decoded(verifier)) != logged.verifier:
        raise NotSatisfied("the log's entry is about another key or certificate")
    _check_hash(hashed, logged.content)


def _check_hash(hashed: JsonObject, content: bytes) -> None:
    algorithm, value = hashed.text("algorithm"), hashed.text("value")
    if len(value) != _HASHES.get(algorithm) or hashlib.new(algorithm, content).hexdigest() != value:
        raise NotSatisfied("the log's entry is about other content")


def _der_of(pem: bytes) -> bytes:
    """The one certificate or public key of a PEM text."""
    if pem.count(b"-----BEGIN") == 1 and pem.startswith(b"-----BEGIN CERTIFICATE-----"):
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    return der(checked_key(serialization.load_pem_public_key(pem)))
