"""Whether a manifest is a repository's own, as clients see it who read it over HTTP.

The repository's master key has signed ``.cvmfswhitelist``, which names certificates; the key
of one of these has signed ``.cvmfspublished``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RepositoryError
from .codec import decompress
from .manifest import Manifest
from .names import Kind
from .storage import WHITELIST, Storage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import Certificate

_EXPIRY = re.compile(rb"^E([0-9]{14})$", re.MULTILINE)
_FINGERPRINT = re.compile(rb"^([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){19})(?![^\s#])", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Letter:
    """Lines, the hash of them that was signed, and the signature of it."""

    lines: bytes
    digest: bytes
    signature: bytes

    @classmethod
    def parse(cls, signed: bytes) -> Letter:
        """Take a signed file apart; `ValueError` where it is none."""
        head, _, rest = signed.partition(b"\n--\n")
        digest, end, signature = rest.partition(b"\n")
        lines = head + b"\n"
        if not end or sha1(lines, usedforsecurity=False).hexdigest().encode() != digest:
            raise ValueError("it has other lines than were signed")
        return cls(lines, digest, signature)


@dataclass(frozen=True, slots=True)
class Trust:
    """Trust in the master key in the file ``key`` (PEM) for the repository ``name``."""

    name: str
    key: Path

    def check(self, storage: Storage, published: bytes) -> None:
        """`RepositoryError` where clients would not take a manifest for the repository's."""
        with self._refusing("whitelist"):
            certificates = self._certificates(Letter.parse(storage.file(WHITELIST)))
        with self._refusing("manifest"):
            letter = Letter.parse(published)
            manifest = Manifest.parse(letter.lines)
            if manifest.get("N") != self.name:
                raise ValueError(f"it is that of {manifest.get('N')!r}")
            certificate = _certificate(storage, manifest)
            if _fingerprint(certificate) not in certificates:
                raise ValueError("its certificate is not on the whitelist")
            _check(certificate, letter)

    def _certificates(self, whitelist: Letter) -> frozenset[bytes]:
        """The fingerprints of the certificates that a whitelist of now names."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # slow to import

        recovered = self._master().recover_data_from_signature(
            whitelist.signature, PKCS1v15(), None
        )
        if recovered != whitelist.digest:
            raise ValueError("its signature is not of these lines")
        if b"N" + self.name.encode() not in whitelist.lines.split(b"\n"):
            raise ValueError(f"it is not that of {self.name}")
        expiry = _EXPIRY.search(whitelist.lines)
        now = datetime.now(UTC).strftime("%Y%m%d%H%M%S").encode()
        if expiry is None or expiry[1] <= now:
            raise ValueError("it has expired")
        return frozenset(found.upper() for found in _FINGERPRINT.findall(whitelist.lines))

    def _master(self) -> RSAPublicKey:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # slow to import
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(self.key.read_bytes())
        except (OSError, ValueError) as error:
            raise RepositoryError(
                f"the public key {self.key} cannot be read: {error}",
                hint="set repository.public_key to the file that clients have as CVMFS_PUBLIC_KEY",
            ) from None
        if not isinstance(key, RSAPublicKey):
            raise ValueError(f"{self.key} is no RSA key")
        return key

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        from cryptography.exceptions import InvalidSignature  # slow to import

        try:
            yield
        except (ValueError, InvalidSignature) as error:
            found = str(error) or "its signature is not right"
            raise RepositoryError(
                f"the {what} of {self.name} is not to be trusted: {found}",
                hint="see that repository.url and repository.public_key are the repository's, "
                "and that clients can mount it",
            ) from None


def _certificate(storage: Storage, manifest: Manifest) -> Certificate:
    from cryptography.x509 import load_pem_x509_certificate  # slow to import

    name = manifest.get("X")
    if re.fullmatch(r"[0-9a-f]{40}", name) is None:
        raise ValueError(f"its certificate is called {name!r}")
    return load_pem_x509_certificate(decompress(storage.get(name + Kind.CERTIFICATE)))


def _fingerprint(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA1  # slow to import

    return certificate.fingerprint(SHA1()).hex(":").upper().encode()  # noqa: S303 - its format


def _check(certificate: Certificate, letter: Letter) -> None:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # slow to import
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA1

    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey):
        raise ValueError("its certificate has no RSA key")
    key.verify(letter.signature, letter.digest, PKCS1v15(), SHA1())  # noqa: S303 - its format
