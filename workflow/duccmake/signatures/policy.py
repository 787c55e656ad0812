"""Policies as podman and skopeo read them (containers-policy.json(5)).

All is checked when a policy is read, and keys and certificates are read with it: a member that
is not known, or of another type, is refused by its place in the file, as it is there.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509

from ..errors import ConfigError, DuccmakeError
from ..oci.json_object import parse_json
from .docker_name import DockerName, is_prefix
from .identity import SignedIdentity
from .keys import PublicKey, load_key
from .reading import NotSatisfied

DOCKER = "docker"
"""The transport of images that come from registries."""


@dataclass(frozen=True, slots=True)
class AcceptAnything:
    """``insecureAcceptAnything``."""


@dataclass(frozen=True, slots=True)
class Reject:
    """``reject``."""


@dataclass(frozen=True, slots=True)
class SignedBy:
    """``signedBy``: a message that one of the keys of these keyrings has signed."""

    keyrings: tuple[bytes, ...]
    identity: SignedIdentity = field(default_factory=SignedIdentity)


@dataclass(frozen=True, slots=True)
class Fulcio:
    """Certificates for identities: of these authorities, vouched for by ``issuer``."""

    authorities: tuple[x509.Certificate, ...]
    issuer: str
    subject: str


@dataclass(frozen=True, slots=True)
class Pki:
    """Certificates of an authority of one's own, for an address of mail or a host."""

    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()
    email: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class SigstoreSigned:
    """``sigstoreSigned``: by one of the keys, or by who has such a certificate.

    With ``logs``, the keys of transparency logs, one of them has to have the signature.
    """

    keys: tuple[PublicKey, ...] = ()
    signer: Fulcio | Pki | None = None
    logs: tuple[PublicKey, ...] = ()
    identity: SignedIdentity = field(default_factory=SignedIdentity)


Requirement = AcceptAnything | Reject | SignedBy | SigstoreSigned


@dataclass(frozen=True, slots=True)
class Requirements:
    """All that an image has to satisfy; ``place`` is where the policy says so.

    ``key`` stands for them, with the content of the keys.
    """

    place: str
    each: tuple[Requirement, ...]
    key: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What images have to satisfy, by transport and scope; else the default."""

    default: Requirements
    transports: Mapping[str, Mapping[str, Requirements]]

    @classmethod
    def parse(cls, members: Any, directory: Path) -> Policy:
        """Read a policy's members; relative paths count from ``directory``.

        Raises `InvalidPolicy`.
        """
        reader = _Reader(directory)
        top = reader.members(members, "", {"default", "transports"})
        if "default" not in top:
            raise InvalidPolicy("", "'default' is missing", "say what holds for all other images")
        transports = reader.members(top.get("transports", {}), "transports", None)
        return cls(
            reader.requirements(top["default"], "default"),
            {
                transport: {
                    scope: reader.requirements(found, f'transports.{transport}."{scope}"')
                    for scope, found in reader.members(
                        scopes, f"transports.{transport}", None
                    ).items()
                }
                for transport, scopes in transports.items()
            },
        )

    @classmethod
    def read(cls, path: Path, directory: Path) -> Policy:
        """Read a policy's file; see `parse`."""
        try:
            return cls.parse(parse_json(path.read_bytes(), "the policy"), directory)
        except OSError as error:
            raise InvalidPolicy("", f"{path} cannot be read: {error.strerror}", "") from None
        except InvalidPolicy:
            raise
        except DuccmakeError as error:
            raise InvalidPolicy("", f"{path}: {error.found}", "mend the file") from None

    def requirements(self, transport: str, scopes: list[str]) -> Requirements:
        """What an image has to satisfy that goes by these ``scopes``, most specific first."""
        found = self.transports.get(transport, {})
        return next((found[scope] for scope in (*scopes, "") if scope in found), self.default)


class InvalidPolicy(ConfigError):
    """A policy that podman would not read either, or that names keys that are not there."""

    def __init__(self, place: str, found: str, hint: str) -> None:
        super().__init__(
            f"{place}: {found}" if place else found,
            step="signature policy",
            hint=hint or "see containers-policy.json(5)",
        )


# From members to values.


@dataclass(frozen=True, slots=True)
class _Reader:
    directory: Path

    def members(self, value: Any, place: str, known: set[str] | None) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise InvalidPolicy(place, "an object is needed here", "")
        for name in value:
            if known is not None and name not in known:
                at = f"{place}.{name}" if place else str(name)
                hint = f"known here are {', '.join(sorted(known))}"
                raise InvalidPolicy(at, f"there is no member {name!r}", hint)
        return value

    def requirements(self, value: Any, place: str) -> Requirements:
        if not isinstance(value, list) or not value:
            found = "a list of at least one requirement is needed here"
            raise InvalidPolicy(place, found, "write [{type: reject}] to refuse all")
        each = [self._requirement(item, f"{place}[{at}]") for at, item in enumerate(value)]
        key = hashlib.sha256("\n".join(text for _, text in each).encode()).hexdigest()
        return Requirements(place, tuple(requirement for requirement, _ in each), key)

    def _requirement(self, value: Any, place: str) -> tuple[Requirement, str]:
        readers: dict[str, Callable[[_Members], Requirement]] = {
            "insecureAcceptAnything": lambda members: AcceptAnything(),
            "reject": lambda members: Reject(),
            "signedBy": _signed_by,
            "sigstoreSigned": _sigstore_signed,
        }
        kind = _type(value, place, readers)
        members = _Members(self, value, place, set(_KNOWN[kind]))
        found = readers[kind](members)
        return found, json.dumps([dict(value), members.read], sort_keys=True, default=str)


_SOURCES = ("keyPath", "keyPaths", "keyData")
_REKOR = ("rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas")
_KNOWN: dict[str, tuple[str, ...]] = {
    "insecureAcceptAnything": ("type",),
    "reject": ("type",),
    "signedBy": ("type", "keyType", *_SOURCES, "signedIdentity"),
    "sigstoreSigned": (
        *("type", "fulcio", "pki", "keyDatas", "signedIdentity"),
        *_SOURCES,
        *_REKOR,
    ),
}


def _type(value: Any, place: str, known: Mapping[str, Any]) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in known:
        hint = f"known are {', '.join(known)}"
        raise InvalidPolicy(f"{place}.type", f"there is no type {kind!r}", hint)
    return kind


class _Members:
    """An object of a policy: its members, and the digests of the files that these name."""

    def __init__(self, reader: _Reader, value: Any, place: str, known: set[str]) -> None:
        self._reader = reader
        self._members = reader.members(value, place, known)
        self.place = place
        self.read: list[str] = []

    def has(self, name: str) -> bool:
        return name in self._members

    def text(self, name: str, *, needed: bool = True) -> str:
        value = self._members.get(name, None if needed else "")
        if not isinstance(value, str) or (needed and not value):
            raise InvalidPolicy(f"{self.place}.{name}", "a text is needed here", "")
        return value

    def nested(self, name: str, *known: str) -> _Members:
        found = _Members(self._reader, self._members[name], f"{self.place}.{name}", set(known))
        found.read = self.read
        return found

    def of_type(self, name: str, known: Mapping[str, tuple[str, ...]]) -> tuple[str, _Members]:
        kind = _type(self._members[name], f"{self.place}.{name}", known)
        return kind, self.nested(name, "type", *known[kind])

    def contents(self, *names: str) -> tuple[bytes, ...]:
        """What the one of these members that is there gives, as paths or as base64."""
        there = [name for name in names if name in self._members]
        if len(there) > 1:
            found = f"only one of {', '.join(there)} can be there"
            raise InvalidPolicy(self.place, found, "keep one of them")
        return tuple(self._content(name, text) for name in there for text in self._texts(name))

    def _texts(self, name: str) -> list[str]:
        value = self._members[name]
        is_list = name.endswith("s")
        texts = value if is_list else [value]
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text for text in texts)
        ):
            found = "a list of texts is needed here" if is_list else "a text is needed here"
            raise InvalidPolicy(f"{self.place}.{name}", found, "")
        return texts

    def _content(self, name: str, text: str) -> bytes:
        try:
            if "Data" in name:
                content = base64.b64decode("".join(text.split()), validate=True)
            else:
                content = (self._reader.directory / text).read_bytes()
        except OSError as error:
            found = f"{text} cannot be read: {error.strerror}"
            raise InvalidPolicy(f"{self.place}.{name}", found, "put the file there") from None
        except ValueError:
            raise InvalidPolicy(f"{self.place}.{name}", "that is no base64", "") from None
        self.read.append(hashlib.sha256(content).hexdigest())
        return content


def _signed_by(members: _Members) -> SignedBy:
    if (kind := members.text("keyType")) != "GPGKeys":
        raise InvalidPolicy(f"{members.place}.keyType", f"there is no type {kind!r}", "use GPGKeys")
    keyrings = members.contents(*_SOURCES)
    if not keyrings:
        raise InvalidPolicy(members.place, f"one of {', '.join(_SOURCES)} is needed", "")
    return SignedBy(keyrings, _identity(members))


def _sigstore_signed(members: _Members) -> SigstoreSigned:
    sources = (*_SOURCES, "keyDatas")
    if sum(members.has(name) for name in (*sources, "fulcio", "pki")) != 1:
        found = f"just one of {', '.join((*sources, 'fulcio', 'pki'))} is needed"
        raise InvalidPolicy(members.place, found, "")
    keys = tuple(_key(pem, members.place) for pem in members.contents(*sources))
    logs = tuple(_key(pem, members.place) for pem in members.contents(*_REKOR))
    if members.has("fulcio") and not logs:
        found = f"'fulcio' needs one of {', '.join(_REKOR)}: certificates are for minutes"
        raise InvalidPolicy(members.place, found, "")
    if members.has("pki") and logs:
        raise InvalidPolicy(members.place, "'pki' goes with no key of a log", "remove one of them")
    return SigstoreSigned(keys, _signer(members), logs, _identity(members))


def _key(pem: bytes, place: str) -> PublicKey:
    try:
        return load_key(pem)
    except NotSatisfied as error:
        raise InvalidPolicy(place, f"a key cannot be used: {error}", "") from None


def _signer(members: _Members) -> Fulcio | Pki | None:
    if members.has("fulcio"):
        found = members.nested("fulcio", "caPath", "caData", "oidcIssuer", "subjectEmail")
        authorities = _certificates(found, "caPath", "caData")
        return Fulcio(authorities, found.text("oidcIssuer"), found.text("subjectEmail"))
    if members.has("pki"):
        files = ("caRootsPath", "caRootsData", "caIntermediatesPath", "caIntermediatesData")
        found = members.nested("pki", *files, "subjectEmail", "subjectHostname")
        email = found.text("subjectEmail", needed=False)
        host = found.text("subjectHostname", needed=False)
        if not email and not host:
            raise InvalidPolicy(found.place, "subjectEmail or subjectHostname is needed", "")
        between = _certificates(found, *files[2:]) if any(map(found.has, files[2:])) else ()
        return Pki(_certificates(found, *files[:2]), between, email, host)
    return None


def _certificates(members: _Members, *names: str) -> tuple[x509.Certificate, ...]:
    contents = members.contents(*names)
    if not contents:
        raise InvalidPolicy(members.place, f"one of {', '.join(names)} is needed", "")
    try:
        return tuple(x509.load_pem_x509_certificates(contents[0]))
    except ValueError as error:
        found = f"there is no certificate in PEM: {error}"
        raise InvalidPolicy(members.place, found, "") from None


_IDENTITIES: dict[str, tuple[str, ...]] = {
    "matchExact": (),
    "matchRepoDigestOrExact": (),
    "matchRepository": (),
    "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",),
    "remapIdentity": ("prefix", "signedPrefix"),
}


def _identity(members: _Members) -> SignedIdentity:
    if not members.has("signedIdentity"):
        return SignedIdentity()
    kind, found = members.of_type("signedIdentity", _IDENTITIES)
    texts = [found.text(name) for name in _IDENTITIES[kind]]
    if kind == "remapIdentity":
        if not all(map(is_prefix, texts)):
            raise InvalidPolicy(found.place, f"{texts} are no prefixes of images' names", "")
        return SignedIdentity("remapIdentity", *texts)
    for text in texts:
        try:
            name = DockerName.parse(text)
        except DuccmakeError as error:
            raise InvalidPolicy(found.place, error.found, "") from None
        if kind == "exactReference" and name.is_name_only:
            raise InvalidPolicy(found.place, f"{text!r} has neither tag nor digest", "")
    return SignedIdentity(kind, signed="".join(texts))  # type: ignore[arg-type]
