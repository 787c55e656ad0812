"""Signatures of sigstore's kind, as cosign attaches them to images.

Older ones are layers of a manifest: a payload of simple signing, and the rest as annotations.
Newer ones are bundles (sigstore's ``sigstore_bundle.proto``): an in-toto statement in a DSSE
envelope, or a signature of the manifest itself.  Both become a `SigstoreSignature`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ..oci.json_object import JsonObject
from ..oci.reference import Digest
from .certificates import chain_of, one_certificate
from .claims import COSIGN_TYPE, Claims, simple_claims, statement_claims
from .reading import NotSatisfied, decoded, refusing
from .rekor import Entry, parse_entry

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
COSIGN_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE_PREFIX = "application/vnd.dev.sigstore.bundle"

_SIGNATURE = "dev.cosignproject.cosign/signature"
_CERTIFICATE = "dev.sigstore.cosign/certificate"
_CHAIN = "dev.sigstore.cosign/chain"
_ENTRY = "dev.sigstore.cosign/bundle"

_BUNDLES = frozenset(
    f"{BUNDLE_PREFIX}{version}"
    for version in ("+json;version=0.1", "+json;version=0.2", "+json;version=0.3", ".v0.3+json")
)
_STATEMENT = "application/vnd.in-toto+json"
_MESSAGE_HASH = "SHA2_256"


@dataclass(frozen=True, slots=True)
class SigstoreSignature:
    """A signature, of which nothing is believed yet.

    ``content`` is what the log hashes and the claims are read from, ``signed`` what the
    signature is made of.  ``entry`` is None where no log has it.
    """

    signature: bytes
    content: bytes
    signed: bytes
    claims: Callable[[], Claims]
    certificate: x509.Certificate | None = None
    chain: tuple[x509.Certificate, ...] = ()
    entry: Entry | None = None
    is_envelope: bool = False


def of_annotations(payload: bytes, annotations: Mapping[str, str]) -> SigstoreSignature:
    """A layer of a manifest that cosign tags ``sha256-….sig``."""
    if _SIGNATURE not in annotations:
        raise NotSatisfied(f"it has no annotation {_SIGNATURE!r}")
    pem = annotations.get(_CERTIFICATE, "").encode()
    entry = annotations.get(_ENTRY, "")
    return SigstoreSignature(
        decoded(annotations[_SIGNATURE]),
        payload,
        payload,
        lambda: simple_claims(payload, COSIGN_TYPE),
        one_certificate(pem) if pem else None,
        chain_of(annotations.get(_CHAIN, "").encode()),
        parse_entry(entry) if entry else None,
    )


def of_bundle(raw: bytes, manifest: bytes) -> SigstoreSignature:
    """A bundle about a ``manifest``, whose bytes a signature without a statement is made of."""
    with refusing("the bundle"):
        bundle = JsonObject.parse(raw, "the bundle")
        if (kind := bundle.text("mediaType")) not in _BUNDLES:
            raise NotSatisfied(f"it is a bundle of type {kind!r}")
        if bundle.has("dsseEnvelope") == bundle.has("messageSignature"):
            raise NotSatisfied("the bundle has not just one of an envelope and a signature")
        material = bundle.nested("verificationMaterial")
        certificate, chain = _certificates(material)
        found = _enveloped(bundle) if bundle.has("dsseEnvelope") else _plain(bundle, manifest)
        signature, content, signed, claims = found
        return SigstoreSignature(
            signature,
            content,
            signed,
            claims,
            certificate,
            chain,
            _entry(material),
            bundle.has("dsseEnvelope"),
        )


_Found = tuple[bytes, bytes, bytes, Callable[[], Claims]]


def _enveloped(bundle: JsonObject) -> _Found:
    """A DSSE envelope (secure-systems-lab/dsse, protocol.md): one signature over PAE."""
    envelope = bundle.nested("dsseEnvelope")
    kind, payload = envelope.text("payloadType"), decoded(envelope.text("payload"))
    if kind != _STATEMENT:
        raise NotSatisfied(f"its envelope is of type {kind!r}")
    signatures = [JsonObject.of(item, "a signature") for item in envelope.array("signatures")]
    if len(signatures) != 1:
        raise NotSatisfied(f"its envelope has {len(signatures)} signatures in place of one")
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    return decoded(signatures[0].text("sig")), payload, signed, lambda: statement_claims(payload)


def _plain(bundle: JsonObject, manifest: bytes) -> _Found:
    message = bundle.nested("messageSignature")
    digest = hashlib.sha256(manifest)
    said = message.nested("messageDigest")
    if said.members and (said.text("algorithm"), decoded(said.text("digest"))) != (
        _MESSAGE_HASH,
        digest.digest(),
    ):
        raise NotSatisfied("the bundle is about something else")
    claims = Claims((Digest("sha256", digest.hexdigest()),), None)
    return decoded(message.text("signature")), manifest, manifest, lambda: claims


def _certificates(
    material: JsonObject,
) -> tuple[x509.Certificate | None, tuple[x509.Certificate, ...]]:
    one = material.nested("certificate")
    several = material.nested("x509CertificateChain").array("certificates")
    found = [JsonObject.of(item, "a certificate") for item in several]
    if one.members:
        found.insert(0, one)
    ders = [decoded(item.text("rawBytes")) for item in found]
    certificates = tuple(map(x509.load_der_x509_certificate, ders))
    return (certificates[0], certificates[1:]) if certificates else (None, ())


def _entry(material: JsonObject) -> Entry | None:
    """The log's entry, where it has signed it at once: only that tells when it was made."""
    entries = [JsonObject.of(item, "an entry") for item in material.array("tlogEntries")]
    promised = [entry for entry in entries if entry.nested("inclusionPromise").members]
    if len(promised) != 1:
        return None
    found = promised[0]
    return Entry(
        decoded(found.text("canonicalizedBody")),
        _number(found, "integratedTime"),
        _number(found, "logIndex"),
        decoded(found.nested("logId").text("keyId")).hex(),
        decoded(found.nested("inclusionPromise").text("signedEntryTimestamp")),
    )


def _number(members: JsonObject, name: str) -> int:
    """A 64-bit number, which Protobuf's JSON writes as a text."""
    text = members.text(name)
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise NotSatisfied(f"{members.what} has the {name} {text!r}")
    return int(text)


def der_of(certificate: x509.Certificate) -> bytes:
    """A certificate's bytes."""
    return certificate.public_bytes(serialization.Encoding.DER)
