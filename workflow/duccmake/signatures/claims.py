"""What signatures say that they sign: simple signing's payloads, and in-toto's statements.

A payload is read in one way or not at all: unknown members, twice the same one, or another
type are refused, as containers/image does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..oci.json_object import JsonObject
from ..oci.reference import Digest
from .reading import NotSatisfied, has_just, refusing

GPG_TYPE = "atomic container signature"
COSIGN_TYPE = "cosign container image signature"

COSIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
STATEMENT_TYPES = frozenset(
    {"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"}
)


@dataclass(frozen=True, slots=True)
class Claims:
    """Digests that are signed, and the image's name; None where the format has none."""

    digests: tuple[Digest, ...]
    reference: str | None


def simple_claims(payload: bytes, kind: str) -> Claims:
    """Those of a payload of containers/image's simple signing, which cosign has as well."""
    with refusing("the signature's payload"):
        top = JsonObject.parse(payload, "the signature's payload")
        has_just(top, "critical", "optional")
        critical = top.nested("critical")
        has_just(critical, "type", "image", "identity")
        image, identity = critical.nested("image"), critical.nested("identity")
        has_just(image, "docker-manifest-digest")
        has_just(identity, "docker-reference")
        _check_optional(top, may_be_null=kind == COSIGN_TYPE)
        if (found := critical.get("type")) != kind:
            raise NotSatisfied(f"its type is {found!r} and not {kind!r}")
        digest = Digest.parse(image.get("docker-manifest-digest"))
        return Claims((digest,), _text(identity, "docker-reference"))


def statement_claims(payload: bytes) -> Claims:
    """Those of an in-toto statement by which cosign signs an image."""
    with refusing("the statement"):
        top = JsonObject.parse(payload, "the statement")
        if (found := top.text("_type")) not in STATEMENT_TYPES:
            raise NotSatisfied(f"it is a statement of type {found!r}")
        if (found := top.text("predicateType")) != COSIGN_PREDICATE:
            raise NotSatisfied(f"it states {found!r}, which is no signature of an image")
        subjects = [JsonObject.of(item, "a subject") for item in top.array("subject")]
        digests = [
            Digest.parse(f"{algorithm}:{value}")
            for subject in subjects
            for algorithm, value in subject.nested("digest").all_texts().items()
        ]
        names = {subject.text("name") for subject in subjects} - {""}
    if len(subjects) != 1:
        raise NotSatisfied(f"the statement has {len(subjects)} subjects in place of one")
    return Claims(tuple(digests), names.pop() if names else None)


def _check_optional(top: JsonObject, *, may_be_null: bool) -> None:
    value: Any = top.members["optional"]
    if value is None and may_be_null:
        return
    optional = JsonObject.of(value, "the payload's 'optional'")
    if optional.has("creator"):
        _text(optional, "creator")
    stamp = optional.members.get("timestamp", 0)
    if type(stamp) is not int and not (type(stamp) is float and stamp.is_integer()):
        raise NotSatisfied(f"its timestamp is {stamp!r}")


def _text(members: JsonObject, name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise NotSatisfied(f"{members.what}: {name!r} is not a string")
    return value
