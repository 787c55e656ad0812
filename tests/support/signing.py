"""Signers of images that share no code with duccmake: openssl, GnuPG, and a small sigstore.

Keys and signatures are openssl's.  The authority and the transparency log are like Fulcio and
Rekor, as far as what they write is looked at.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from duccmake.demo.registry import Store
from duccmake.oci.manifest import OCI_INDEX, OCI_MANIFEST
from duccmake.oci.reference import Digest
from support.servers import need, sha256

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
ISSUER = "https://accounts.example.org"
EMAIL = "release@example.org"


def b64(content: bytes) -> str:
    """Base64 as JSON has it."""
    return base64.b64encode(content).decode()


def canonical(value: object) -> bytes:
    """JSON as RFC 8785 writes what has but ASCII and small numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Key:
    """A private key in a file, made and used by openssl."""

    def __init__(self, directory: Path, name: str = "key", algorithm: str = "EC:P-256") -> None:
        self.path = directory / f"{name}.pem"
        kind, _, option = algorithm.partition(":")
        self.kind = kind
        options = {"EC": "ec_paramgen_curve", "RSA": "rsa_keygen_bits"}
        more = ["-pkeyopt", f"{options[kind]}:{option}"] if option else []
        _openssl("genpkey", "-algorithm", kind, *more, "-out", str(self.path))
        self.public = _openssl("pkey", "-in", str(self.path), "-pubout")
        self.public_path = directory / f"{name}.pub"
        self.public_path.write_bytes(self.public)

    def sign(self, content: bytes, digest: str = "sha256") -> bytes:
        """A signature over content."""
        if self.kind == "ED25519":
            file = self.path.with_suffix(".signed")
            file.write_bytes(content)
            return _openssl(
                "pkeyutl", "-sign", "-rawin", "-inkey", str(self.path), "-in", str(file)
            )
        return _openssl("dgst", f"-{digest}", "-sign", str(self.path), given=content)


def public_key() -> bytes:
    """The public half of a key that nobody has, in PEM."""
    private = _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    return _openssl("pkey", "-pubout", given=private)


def _openssl(*arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run([need("openssl"), *arguments], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def payload(digest: Digest | str, reference: str, **critical: object) -> bytes:
    """What cosign signs."""
    members = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": str(digest)},
        "type": "cosign container image signature",
        **critical,
    }
    return json.dumps({"critical": members, "optional": None}).encode()


def statement(digest: Digest, **members: object) -> bytes:
    """What cosign 3 signs."""
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {digest.algorithm: digest.hex}}],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
            **members,
        }
    ).encode()


def pae(kind: str, content: bytes) -> bytes:
    """DSSE's encoding of what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(content), content)


@dataclass
class Log:
    """A transparency log."""

    key: Key
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def entry(self, body: Mapping[str, object], /, **changes: object) -> dict[str, Any]:
        """An entry with the log's promise, as cosign's annotation has it."""
        entry = {
            "body": b64(canonical(body)),
            "integratedTime": int(self.time.timestamp()),
            "logID": hashlib.sha256(self.key.public).hexdigest(),
            "logIndex": 7,
        }
        promise = self.key.sign(canonical(entry))
        return {"SignedEntryTimestamp": b64(promise), "Payload": {**entry, **changes}}


def hashedrekord(signature: bytes, content: bytes, verifier: bytes) -> dict[str, object]:
    """The body of an entry about a signature; ``verifier`` is PEM."""
    return {
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}},
            "signature": {"content": b64(signature), "publicKey": {"content": b64(verifier)}},
        },
    }


def dsse_entry(signature: bytes, content: bytes, verifier: bytes) -> dict[str, object]:
    """The body of an entry about an envelope."""
    return {
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
            "payloadHash": {
                "algorithm": "sha256",
                "value": hashlib.sha256(content).hexdigest(),
            },
            "signatures": [{"signature": b64(signature), "verifier": b64(verifier)}],
        },
    }


class Authority:
    """An authority with one below it that gives certificates for minutes."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime.now(UTC)
        self._keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        self.root = self._authority("root", 0, 0)
        self.between = self._authority("between", 1, 0)
        self.pem = pem(self.root)
        self.chain = pem(self.between) + pem(self.root)

    def _authority(self, name: str, number: int, above: int, **span: datetime) -> x509.Certificate:
        issuer = "root" if above == 0 else name
        builder = self._builder(name, issuer, self._keys[number].public_key())
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        return self._signed(builder, above, span or self._days(100))

    def expired_between(self) -> x509.Certificate:
        """The one below as it was until a minute ago."""
        span = {"start": self.now - timedelta(9), "end": self.now - timedelta(minutes=1)}
        return self._authority("between", 1, 0, **span)

    def unfit_between(self) -> x509.Certificate:
        """The one below as one that may not sign certificates."""
        builder = self._builder("between", "root", self._keys[1].public_key())
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = [True, *[False] * 8]
        builder = builder.add_extension(x509.KeyUsage(*usage), critical=True)
        return self._signed(builder, 0, self._days(100))

    def certificate(
        self,
        key: Key,
        names: Sequence[x509.GeneralName] = (x509.RFC822Name(EMAIL),),
        issuers: Mapping[str, bytes] | None = None,
        usage: ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
        start: datetime | None = None,
    ) -> bytes:
        """A certificate for ten minutes, in PEM; ``issuers`` are extensions of Fulcio's."""
        public = serialization.load_pem_public_key(key.public)
        builder = self._builder("", "between", public)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        for oid, value in (fulcio_issuer() if issuers is None else issuers).items():
            extension = x509.UnrecognizedExtension(ObjectIdentifier(oid), value)
            builder = builder.add_extension(extension, critical=False)
        start = start or self.now - timedelta(minutes=5)
        return pem(self._signed(builder, 1, {"start": start, "end": start + timedelta(minutes=10)}))

    def _builder(self, name: str, issuer: str, key: Any) -> x509.CertificateBuilder:
        return x509.CertificateBuilder(_name(issuer), _name(name), key, x509.random_serial_number())

    def _signed(
        self, builder: x509.CertificateBuilder, above: int, span: Mapping[str, datetime]
    ) -> x509.Certificate:
        builder = builder.not_valid_before(span["start"]).not_valid_after(span["end"])
        return builder.sign(self._keys[above], hashes.SHA256())

    def _days(self, days: int) -> dict[str, datetime]:
        return {"start": self.now - timedelta(days), "end": self.now + timedelta(days)}


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def fulcio_issuer(old: str = ISSUER, new: str = ISSUER) -> dict[str, bytes]:
    """Fulcio's two extensions with who has vouched for an identity."""
    der = bytes([0x0C, len(new)]) + new.encode()
    found = {"1.3.6.1.4.1.57264.1.1": old.encode(), "1.3.6.1.4.1.57264.1.8": der}
    return {
        oid: value for (oid, value), text in zip(found.items(), (old, new), strict=True) if text
    }


def annotations(
    signature: bytes, certificate: bytes = b"", chain: bytes = b"", entry: object = None
) -> dict[str, str]:
    """What cosign writes beside a payload."""
    found = {
        "dev.cosignproject.cosign/signature": b64(signature),
        "dev.sigstore.cosign/certificate": certificate.decode(),
        "dev.sigstore.cosign/chain": chain.decode(),
        "dev.sigstore.cosign/bundle": json.dumps(entry) if entry else "",
    }
    return {name: text for name, text in found.items() if text}


def bundle(
    content: Mapping[str, object], entry: Mapping[str, Any] | None = None, certificate: bytes = b""
) -> dict[str, Any]:
    """A bundle of version 0.3, of an envelope or a message's signature."""
    material: dict[str, Any] = {"publicKey": {"hint": "a key"}}
    if certificate:
        der = x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)
        material = {"certificate": {"rawBytes": b64(der)}}
    if entry:
        logged = entry["Payload"]
        material["tlogEntries"] = [
            {
                "logIndex": str(logged["logIndex"]),
                "logId": {"keyId": b64(bytes.fromhex(logged["logID"]))},
                "kindVersion": {"kind": "dsse", "version": "0.0.1"},
                "integratedTime": str(logged["integratedTime"]),
                "inclusionPromise": {"signedEntryTimestamp": entry["SignedEntryTimestamp"]},
                "canonicalizedBody": logged["body"],
            }
        ]
    return {"mediaType": BUNDLE, "verificationMaterial": material, **content}


def envelope(
    key: Key, content: bytes, kind: str = "application/vnd.in-toto+json"
) -> tuple[bytes, dict[str, Any]]:
    """A signature, and the envelope that has it."""
    signature = key.sign(pae(kind, content))
    found = {
        "payload": b64(content),
        "payloadType": kind,
        "signatures": [{"sig": b64(signature)}],
    }
    return signature, {"dsseEnvelope": found}


# --- in a registry ------------------------------------------------------


def attach(
    store: Store, repository: str, digest: Digest, *signed: tuple[bytes, Mapping[str, str]]
) -> None:
    """Put signatures where cosign has them: payloads, with their annotations."""
    layers = [_layer(store, SIMPLE, content, notes) for content, notes in signed]
    config = _layer(store, "application/vnd.oci.image.config.v1+json", EMPTY, {})
    raw = _manifest(config=config, layers=layers)
    store.put_manifest(repository, OCI_MANIFEST, raw, f"{digest.algorithm}-{digest.hex}.sig")


def refer(
    store: Store,
    repository: str,
    subject: Digest,
    content: bytes,
    kind: str = BUNDLE,
    *,
    by_tag: bool = False,
    listed: str | None = None,
    is_old: bool = False,
) -> Digest:
    """Put an artifact that refers to a manifest.

    With ``by_tag`` the tag for that lists it, with another type if one is ``listed``, and
    where it ``is_old`` nothing else tells.
    """
    named = {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": 1}
    raw = _manifest(
        artifactType=kind,
        config=_layer(store, EMPTY_TYPE, EMPTY, {}),
        layers=[_layer(store, kind, content, {})],
        **({} if is_old else {"subject": named}),
    )
    digest = store.put_manifest(repository, OCI_MANIFEST, raw, "")
    if by_tag:
        entry = {
            "mediaType": OCI_MANIFEST,
            "digest": str(digest),
            "size": len(raw),
            "artifactType": kind if listed is None else listed,
        }
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        tag = f"{subject.algorithm}-{subject.hex}"
        store.put_manifest(repository, OCI_INDEX, json.dumps(index).encode(), tag)
    return digest


def _manifest(**members: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, **members}).encode()


def _layer(store: Store, kind: str, content: bytes, notes: Mapping[str, str]) -> dict[str, object]:
    store.put_blob(content)
    found = {"mediaType": kind, "digest": str(sha256(content)), "size": len(content)}
    return {**found, "annotations": dict(notes)} if notes else found


class Aside(ThreadingHTTPServer):
    """A lookaside storage by HTTP; ``seen`` are the Authorization headers that came."""

    def __init__(self, root: Path) -> None:
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), partial(_AsideHandler, directory=str(root)))

    @property
    def host(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.shutdown()
        self.server_close()


class _AsideHandler(SimpleHTTPRequestHandler):
    server: Aside

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization", ""))
        super().do_GET()

    def log_message(self, format: str, *values: object) -> None:
        """Nothing on the terminal."""


# --- GnuPG --------------------------------------------------------------


class Gpg:
    """A home of GnuPG with keys that expire never, unless it is said when."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)

    def key(self, name: str, expires: str = "never", faked: str = "") -> str:
        """Make a key; its fingerprint."""
        user = f"{name} <{name}@example.org>"
        at = ["--faked-system-time", faked] if faked else []
        self._gpg(*at, "--passphrase", "", "--quick-gen-key", user, "ed25519", "sign", expires)
        listed = self._gpg("--list-keys", "--with-colons", user).decode().splitlines()
        return next(line.split(":")[9] for line in listed if line.startswith("fpr"))

    def public(self, fingerprint: str, *, armor: bool = False) -> bytes:
        """The public key."""
        return self._gpg(*["--armor"] * armor, "--export", fingerprint)

    def signed(self, fingerprint: str, content: bytes, *more: str) -> bytes:
        """A message with a signature."""
        return self._gpg(*more, "--local-user", fingerprint, "--sign", given=content)

    def run(self, *arguments: str, given: bytes = b"") -> bytes:
        """Anything else that gpg can."""
        return self._gpg(*arguments, given=given)

    def _gpg(self, *arguments: str, given: bytes = b"") -> bytes:
        done = subprocess.run(
            [need("gpg"), "--homedir", str(self.home), "--batch", "--yes", *arguments],
            input=given,
            capture_output=True,
            env={**os.environ, "GNUPGHOME": str(self.home)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        """End the agent that gpg has started for this home."""
        need("gpgconf")
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False)


@contextmanager
def gpg_home(path: Path) -> Iterator[Gpg]:
    """A home of GnuPG's whose agent ends with it."""
    gpg = Gpg(path)
    try:
        yield gpg
    finally:
        gpg.stop()


NAME = "registry.example.org/team/app"
MANIFEST = b'{"schemaVersion": 2}'
DIGEST = sha256(MANIFEST)
OTHER = sha256(b"another manifest")
REPOSITORY = {"signedIdentity": {"type": "matchRepository"}}
"""An image that is signed, another one, and what a policy says of names."""


@dataclass(frozen=True)
class Signers:
    """Who signs, and whom a policy trusts."""

    key: Key
    other: Key
    log: Log
    authority: Authority
    gpg: Gpg
    signer: str
    stranger: str

    @property
    def keyed(self) -> dict[str, Any]:
        return {"type": "sigstoreSigned", "keyData": b64(self.key.public), **REPOSITORY}

    @property
    def logged(self) -> dict[str, Any]:
        return {**self.keyed, "rekorPublicKeyData": b64(self.log.key.public)}

    @property
    def keyless(self) -> dict[str, Any]:
        ca = {"caData": b64(self.authority.pem), "oidcIssuer": ISSUER, "subjectEmail": EMAIL}
        log = {"rekorPublicKeyData": b64(self.log.key.public)}
        return {"type": "sigstoreSigned", "fulcio": ca, **log, **REPOSITORY}

    @property
    def pki(self) -> dict[str, Any]:
        ca = {"caRootsData": b64(self.authority.pem), "subjectEmail": EMAIL}
        return {"type": "sigstoreSigned", "pki": ca, **REPOSITORY}

    @property
    def messages(self) -> dict[str, Any]:
        public = b64(self.gpg.public(self.signer))
        return {"type": "signedBy", "keyType": "GPGKeys", "keyData": public, **REPOSITORY}


@contextmanager
def signers(base: Path) -> Iterator[Signers]:
    """Make their keys, in a directory."""
    key, other, log = (Key(base, name) for name in ("key", "other", "log"))
    with gpg_home(base / "gpg") as gpg:
        signer, stranger = gpg.key("signer"), gpg.key("stranger")
        yield Signers(key, other, Log(log), Authority(), gpg, signer, stranger)
