"""Public keys that policies name, and signatures made with them."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from .reading import NotSatisfied

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_LEAST_RSA_BITS = 2048
_CURVES: dict[str, tuple[hashes.HashAlgorithm, ...]] = {
    "secp256r1": (hashes.SHA256(),),
    # cosign takes SHA-256 with any key, or what has the length of the curve.
    "secp384r1": (hashes.SHA256(), hashes.SHA384()),
    "secp521r1": (hashes.SHA256(), hashes.SHA512()),
}


def load_key(pem: bytes) -> PublicKey:
    """The one public key of a PEM file; `NotSatisfied` says why it is none."""
    try:
        return checked_key(serialization.load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm):
        raise NotSatisfied("it is no public key in PEM") from None


def checked_key(key: object) -> PublicKey:
    """A key of a kind that signs images: ECDSA on NIST's curves, RSA of 2048 bits, Ed25519."""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise NotSatisfied(
        "the key is neither ECDSA (P-256, P-384, P-521) nor RSA of 2048 bits nor Ed25519"
    )


def der(key: PublicKey) -> bytes:
    """The key as SubjectPublicKeyInfo."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(key: PublicKey) -> str:
    """What a key goes by: the digest of its SubjectPublicKeyInfo."""
    return f"sha256:{hashlib.sha256(der(key)).hexdigest()}"


def is_signed_by(key: PublicKey, signature: bytes, content: bytes) -> bool:
    """Whether ``signature`` over ``content`` was made with the private half of the key."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return any(
            _verifies(key, signature, content, algorithm) for algorithm in _CURVES[key.curve.name]
        )
    return _verifies(key, signature, content, hashes.SHA256())


def _verifies(
    key: PublicKey, signature: bytes, content: bytes, algorithm: hashes.HashAlgorithm
) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, content, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, content, padding.PKCS1v15(), algorithm)
        else:
            key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
