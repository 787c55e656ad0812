"""JSON that others wrote, read in the one way that all readers share, or not at all.

Most container tools are written in Go, whose decoder takes a member for one that it
knows where only the letter case differs, the last of several with one name, and U+FFFD
for what is no Unicode (encoding/json); others read the same bytes in another way.  What
could be one image to who checks it and another one to who runs it is refused, as a body
that is a manifest and an index is (CVE-2021-41190).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ManifestError

_HINT = "ask the image's author to build it with a current tool"
_LARGEST = 2**63 - 1


def parse_json(raw: bytes, what: str) -> Any:
    """Parse a document (RFC 8259); ``what`` calls it by its name in errors.

    Raises `ManifestError` for what is no JSON in UTF-8, and for a byte order mark and
    members with one name, on which readers differ.  Half of a surrogate pair may be in
    a text: nothing that decides has one.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise _ambiguous(f"{what} has several members {twice!r} in one object")
        return members

    def no_number(text: str) -> None:
        raise _ambiguous(f"{what} has {text}, which is no number in JSON")

    if raw.startswith(codecs.BOM_UTF8):
        raise _ambiguous(f"{what} begins with a byte order mark")
    try:
        return json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=no_number)
    except RecursionError:
        raise _ambiguous(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ManifestError(
            f"{what} is not JSON: {error} (it begins with {raw[:40]!r})",
            hint="see whether a proxy or a login page answers instead of the registry",
        ) from None


@dataclass(frozen=True, slots=True)
class JsonObject:
    """A JSON object's members by name; ``what`` calls it by its name in errors.

    A member that is null is one that is not there.  All methods raise `ManifestError`,
    where a member is not of its type, and where another one has its name but for the
    letter case.
    """

    what: str
    members: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: bytes, what: str) -> JsonObject:
        """The object that a document is; see `parse_json`."""
        return cls.of(parse_json(raw, what), what)

    @classmethod
    def of(cls, value: object, what: str) -> JsonObject:
        """What was parsed before, if it is an object."""
        if not isinstance(value, dict):
            raise ManifestError(f"{what} is not a JSON object")
        return cls(what, value)

    def has(self, name: str) -> bool:
        """Whether there is such a member, even null."""
        folded = name.casefold()
        for other in self.members:
            if other != name and other.casefold() == folded:
                raise _ambiguous(
                    f"{self.what} has a member {other!r}, which only some readers take for {name!r}"
                )
        return name in self.members

    def get(self, name: str) -> Any:
        """A member of any type; None where there is none."""
        return self.members[name] if self.has(name) else None

    def text(self, name: str) -> str:
        """A string; empty where there is none."""
        value = self.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise ManifestError(f"{self.what}: {name!r} is not a string")
        return value

    def size(self, name: str) -> int:
        """A whole number from 0 to 2**63 - 1, written as one: 10 and not 1e1."""
        value = self.get(name)
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise ManifestError(f"{self.what} has the {name} {value!r}")
        return value

    def array(self, name: str) -> list[Any]:
        """An array; empty where there is none."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ManifestError(f"{self.what}: {name!r} is not a list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of strings; empty where there is none."""
        values = self.array(name)
        if not all(isinstance(value, str) for value in values):
            raise ManifestError(f"{self.what}: {name!r} holds something that is not a string")
        return tuple(values)

    def all_texts(self) -> dict[str, str]:
        """All members, which are strings (or null, which is read as an empty one), as of labels."""
        values = {name: "" if value is None else value for name, value in self.members.items()}
        if not all(isinstance(value, str) for value in values.values()):
            raise ManifestError(f"{self.what} holds something that is not a string")
        return values

    def nested(self, name: str) -> JsonObject:
        """An object; one without members where there is none."""
        value = self.get(name)
        return JsonObject.of({} if value is None else value, f"{self.what}: {name!r}")


def _ambiguous(found: str) -> ManifestError:
    return ManifestError(found, hint=_HINT)
