"""Reading what anybody may have written beside an image: refused where it is not just right."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DuccmakeError
from ..oci.json_object import JsonObject


class NotSatisfied(Exception):
    """Why one signature does not count; whoever looks at all of them tells of each."""


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Have whatever does not parse refused, as ``what`` that is damaged."""
    try:
        yield
    except NotSatisfied:
        raise
    except DuccmakeError as error:
        raise NotSatisfied(error.found) from None
    except Exception as error:  # parsers of certificates and keys have many ways to fail
        raise NotSatisfied(f"{what} is damaged: {error}") from None


def decoded(text: str) -> bytes:
    """Base64 (RFC 4648, section 4), in lines or not, without anything else in it."""
    try:
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except ValueError as error:
        raise NotSatisfied(f"that is no base64: {error}") from None


def has_just(members: JsonObject, *names: str) -> None:
    """Raise `NotSatisfied` where a member lacks, or is one too many."""
    for name in names:
        if not members.has(name):
            raise NotSatisfied(f"{members.what} has no {name!r}")
    if strange := [name for name in members.members if name not in names]:
        raise NotSatisfied(f"{members.what} has an unknown member {strange[0]!r}")
