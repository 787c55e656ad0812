"""Certificates of who signs without a key of his own: chains, times and identities.

Chains are built and checked by `cryptography`'s X.509 verification (RFC 5280): each certificate
has to be valid at the moment of signing, up to a trusted one, and to be made for signing code.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509 import ExtensionNotFound, verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from .keys import PublicKey, checked_key
from .reading import NotSatisfied, refusing

ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""Fulcio's extension with who has vouched for the identity, as plain text (deprecated)."""

ISSUER_V2 = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
"""The same as a UTF8String in DER."""

_FOR_CODE = frozenset(
    {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
)

_UTF8_STRING = 0x0C


def one_certificate(pem: bytes) -> x509.Certificate:
    """The only certificate of a PEM text; a bare public key is none."""
    with refusing("the certificate"):
        found = x509.load_pem_x509_certificates(pem)
        if len(found) != 1:
            raise NotSatisfied(f"there are {len(found)} certificates in place of one")
        return found[0]


def chain_of(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates between the first and the trusted one, which chains end with."""
    if not pem:
        return ()
    with refusing("the chain of certificates"):
        return tuple(x509.load_pem_x509_certificates(pem)[:-1])


def check_chain(
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    moment: float,
) -> PublicKey:
    """The key of a certificate that was good at a moment; `NotSatisfied` where it was not."""
    with refusing("the certificate"):
        at = datetime.fromtimestamp(moment, UTC)
        if not leaf.not_valid_before_utc <= at <= leaf.not_valid_after_utc:
            raise NotSatisfied(
                f"its certificate is for {leaf.not_valid_before_utc} to "
                f"{leaf.not_valid_after_utc}, and the signature is of {at}"
            )
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(list(trusted)))
            .time(at)
            .extension_policies(ca_policy=_authorities(), ee_policy=_for_code())
            .build_client_verifier()
        )
        try:
            verifier.verify(leaf, list(between))
        except verification.VerificationError as error:
            raise NotSatisfied(
                f"its certificate does not lead to a trusted authority: {error}"
            ) from None
        return checked_key(leaf.public_key())


def _authorities() -> verification.ExtensionPolicy:
    """What those above have to be (RFC 5280, 4.2.1.3 and 4.2.1.9); many private ones say no more.

    That they are an authority's, and for how long a path and which names, is checked in any case.
    """
    either = verification.Criticality.AGNOSTIC
    policy = _for_code().require_present(x509.BasicConstraints, either, None)
    return policy.may_be_present(x509.KeyUsage, either, _check_may_sign)


def _for_code() -> verification.ExtensionPolicy:
    return verification.ExtensionPolicy.permit_all().may_be_present(
        x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, _check_usage
    )


def _check_may_sign(
    policy: object, certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("a certificate's key may not sign certificates")


def _check_usage(
    policy: object, certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None
) -> None:
    if usage is not None and not _FOR_CODE.intersection(usage):
        raise ValueError("a certificate is not made for signing code")


def subjects(certificate: x509.Certificate) -> list[str]:
    """Whom the certificate is for: addresses of mail, and URIs such as those of workflows."""
    names = _alternative_names(certificate)
    if names is None:
        return []
    mail = names.get_values_for_type(x509.RFC822Name)
    return [*mail, *names.get_values_for_type(x509.UniformResourceIdentifier)]


def is_for_host(certificate: x509.Certificate, host: str) -> bool:
    """Whether it is for a host (RFC 6125, section 6.4): ``*`` may be its whole first label."""
    names = _alternative_names(certificate)
    first, dot, rest = host.lower().partition(".")
    wanted = {host.lower(), f"*.{rest}"} if first and dot else {host.lower()}
    found = names.get_values_for_type(x509.DNSName) if names else []
    return any(name.lower().rstrip(".") in wanted for name in found)


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    with refusing("the certificate"):
        try:
            return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except ExtensionNotFound:
            return None


def issuer(certificate: x509.Certificate) -> str:
    """Who has vouched for the identity, by Fulcio's extensions, which have to agree."""
    found = {}
    with refusing("the certificate"):
        for extension in certificate.extensions:
            if isinstance(value := extension.value, x509.UnrecognizedExtension):
                found[extension.oid] = value.value
        names = {found[ISSUER].decode()} if ISSUER in found else set()
        names |= {_utf8_string(found[ISSUER_V2])} if ISSUER_V2 in found else set()
    if len(names) != 1:
        raise NotSatisfied(
            "its certificate has two different issuers of the identity"
            if names
            else "its certificate does not say who has vouched for the identity"
        )
    return names.pop()


def _utf8_string(value: bytes) -> str:
    """A DER UTF8String (X.690, 8.1.3): its tag, its length, its content, and nothing else."""
    if len(value) < 2 or value[0] != _UTF8_STRING:
        raise NotSatisfied("the issuer in its certificate is no text")
    size, start = value[1], 2
    if size > 0x80:
        start += size - 0x80
        size = int.from_bytes(value[2:start], "big")
    if start + size != len(value):
        raise NotSatisfied("the issuer in its certificate has another length than it says")
    return value[start:].decode()
