"""Whether an image satisfies all that a policy requires of it, and by which signatures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from ..errors import DuccmakeError, Fault
from ..oci.reference import Digest
from .certificates import check_chain, is_for_host, issuer, subjects
from .claims import GPG_TYPE, Claims, simple_claims
from .docker_name import DockerName
from .gpg import opened
from .identity import SignedIdentity
from .keys import PublicKey, der, fingerprint, is_signed_by
from .policy import (
    AcceptAnything,
    Fulcio,
    Pki,
    Reject,
    Requirement,
    Requirements,
    SignedBy,
    SigstoreSigned,
)
from .reading import NotSatisfied, refusing
from .rekor import Logged, check_entry
from .sigstore import SigstoreSignature, der_of

_TOLD = 5
"""So many signatures that did not count are told of; there may be any number of them."""


@dataclass(frozen=True, slots=True)
class Found:
    """A signature as it was found at ``place``, not read yet; ``message`` is one of GnuPG's."""

    place: str
    read: Callable[[], SigstoreSignature] | None = None
    message: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Signed:
    """What may be signed: the bytes of a manifest or an index, and what was found beside it."""

    digest: Digest
    raw: bytes = field(repr=False)
    signatures: tuple[Found, ...] = ()

    def is_meant(self, digest: Digest) -> bool:
        """Whether a digest is that of the bytes."""
        return hashlib.new(digest.algorithm, self.raw).hexdigest() == digest.hex


@dataclass(frozen=True, slots=True)
class Verified:
    """A requirement that is satisfied: by whom, by a signature of which digest, of what."""

    requirement: str
    by: str = ""
    signature: str = ""
    signed: str = ""

    def to_json(self) -> dict[str, str]:
        """As a record has it."""
        members = {
            "type": self.requirement,
            "by": self.by,
            "signature": self.signature,
            "signed": self.signed,
        }
        return {name: value for name, value in members.items() if value}


@dataclass(frozen=True, slots=True)
class Asked:
    """An image that wants to be published: its name, where it has one, and what may be signed.

    ``signed`` gives that with messages of GnuPG, where it is told so, or else with signatures
    of sigstore's kind.  ``unnamed`` says that signatures count that name no image.
    """

    name: DockerName | None
    signed: Callable[[bool], Sequence[Signed]]
    unnamed: bool = False
    now: Callable[[], float] = time.time


def verify(requirements: Requirements, asked: Asked) -> tuple[Verified, ...]:
    """What satisfies each of the requirements; raises `DuccmakeError` where one is not."""
    return tuple(
        _satisfied(requirement, f"{requirements.place}[{at}]", asked)
        for at, requirement in enumerate(requirements.each)
    )


def _satisfied(requirement: Requirement, place: str, asked: Asked) -> Verified:
    if isinstance(requirement, AcceptAnything):
        return Verified("insecureAcceptAnything")
    if isinstance(requirement, Reject):
        raise _refused(f"the policy refuses it ({place})", "take it off the wish list")
    wants_message = isinstance(requirement, SignedBy)
    kind = "signedBy" if wants_message else "sigstoreSigned"
    reasons: dict[str, None] = {}
    for signed in asked.signed(wants_message):
        for found in signed.signatures:
            try:
                with refusing("the signature"):
                    return _held_to(requirement, found, signed, asked)
            except NotSatisfied as error:
                reasons[f"{found.place}: {error}"] = None
    if not reasons:
        raise _refused(
            f"it has no signature as {place} ({kind}) wants one", "sign it and run again"
        )
    said = "; ".join(list(reasons)[:_TOLD])
    more = f" and {len(reasons) - _TOLD} more" if len(reasons) > _TOLD else ""
    raise _refused(
        f"none of its signatures is as {place} ({kind}) wants one: {said}{more}",
        "sign it as the policy says, or mend the policy",
    )


def _refused(found: str, hint: str) -> DuccmakeError:
    """Why an image does not satisfy the policy."""
    return DuccmakeError(found, hint=hint, fault=Fault.SIGNATURE)


def _held_to(
    requirement: SignedBy | SigstoreSigned, found: Found, signed: Signed, asked: Asked
) -> Verified:
    if isinstance(requirement, SignedBy):
        opened_message = opened(found.message, requirement.keyrings)
        claims = simple_claims(opened_message.payload, GPG_TYPE)
        kind, by = "signedBy", opened_message.fingerprint
        digest = hashlib.sha256(found.message)
    else:
        assert found.read is not None
        signature = found.read()
        kind, by = "sigstoreSigned", _signer_of(requirement, signature, asked.now)
        claims = signature.claims()
        digest = hashlib.sha256(signature.signature)
    _check_claims(claims, signed, requirement.identity, asked)
    return Verified(kind, by, f"sha256:{digest.hexdigest()}", str(signed.digest))


def _check_claims(claims: Claims, signed: Signed, identity: SignedIdentity, asked: Asked) -> None:
    if not claims.digests or not all(map(signed.is_meant, claims.digests)):
        named = ", ".join(map(str, claims.digests)) or "nothing"
        raise NotSatisfied(f"it signs {named}, and this is {signed.digest}")
    if claims.reference is None:
        if not asked.unnamed:
            raise NotSatisfied("it names no image; 'signatures.unnamed: accept' lets such count")
    elif not identity.accepts(asked.name, claims.reference):
        raise NotSatisfied(
            f"it is for {claims.reference!r}, which {identity.way} does not accept "
            f"for {asked.name or 'an image without a name'}"
        )


def _signer_of(
    requirement: SigstoreSigned, signature: SigstoreSignature, now: Callable[[], float]
) -> str:
    """Who has made a signature, in words; `NotSatisfied` where it is nobody who may."""
    if requirement.signer is None:
        key = _signing(requirement.keys, signature)
        if requirement.logs:
            _check_log(requirement.logs, signature, der(key))
        return fingerprint(key)
    certificate = signature.certificate
    if certificate is None:
        raise NotSatisfied("it has no certificate")
    signer = requirement.signer
    if isinstance(signer, Fulcio):
        # Only what a log has signed tells when the signature was made.
        moment = _check_log(requirement.logs, signature, der_of(certificate))
        key = check_chain(certificate, signature.chain, signer.authorities, moment)
    else:
        between = (*signer.intermediates, *signature.chain)
        key = check_chain(certificate, between, signer.roots, now())
    _signing([key], signature)
    return _identity_of(signer, certificate)


def _identity_of(signer: Fulcio | Pki, certificate: x509.Certificate) -> str:
    found = subjects(certificate)
    if isinstance(signer, Fulcio):
        if (said := issuer(certificate)) != signer.issuer:
            raise NotSatisfied(f"its signer was vouched for by {said!r}, not by {signer.issuer!r}")
        if signer.subject not in found:
            raise NotSatisfied(f"its signer is {', '.join(found)!r}, not {signer.subject!r}")
        return f"{signer.subject} ({signer.issuer})"
    if signer.email and signer.email not in found:
        raise NotSatisfied(f"its signer is {', '.join(found)!r}, not {signer.email!r}")
    if signer.host and not is_for_host(certificate, signer.host):
        raise NotSatisfied(f"its certificate is not for {signer.host}")
    return " ".join(filter(None, (signer.email, signer.host)))


def _signing(keys: Iterable[PublicKey], signature: SigstoreSignature) -> PublicKey:
    for key in keys:
        if is_signed_by(key, signature.signature, signature.signed):
            return key
    raise NotSatisfied("it was not made with the key")


def _check_log(logs: Sequence[PublicKey], signature: SigstoreSignature, verifier: bytes) -> float:
    """Hold the log's entry to the signature; when it was integrated."""
    if signature.entry is None:
        raise NotSatisfied("it has no entry that a transparency log has signed")
    logged = Logged(signature.signature, signature.content, verifier, signature.is_envelope)
    check_entry(signature.entry, logs, logged)
    return float(signature.entry.time)
