"""The types of all members that readers in Go decode, also of those that nothing here needs.

podman decodes the manifest and the configuration of every image in a store before it lists
any of them: one that its decoder refuses stands in the way of all others.  No reader in Go
takes such an image, so it is refused.  The members are those of image-spec (config.md,
manifest.md, descriptor.md) and of Docker's image specification.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ..errors import ManifestError
from .json_object import JsonObject

_Check = Callable[[Any, str], None]
"""Raises `ManifestError` for a value of another type; null is one of each."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)


def check_config(members: JsonObject) -> None:
    """Raise `ManifestError` for an image's configuration that readers in Go refuse."""
    _CONFIG(members.members, members.what)


def check_manifest(members: JsonObject) -> None:
    """Raise `ManifestError` for an image's manifest that readers in Go refuse."""
    _MANIFEST(members.members, members.what)


def _wrong(what: str, wanted: str) -> ManifestError:
    return ManifestError(
        f"{what} is not {wanted}, and no reader takes it for anything else",
        hint="ask the image's author to build it with a current tool",
    )


def _text(value: Any, what: str) -> None:
    if value is not None and not isinstance(value, str):
        raise _wrong(what, "a string")


def _flag(value: Any, what: str) -> None:
    if value is not None and not isinstance(value, bool):
        raise _wrong(what, "true or false")


def _number(value: Any, what: str) -> None:
    if value is not None and (type(value) is not int or not -(2**63) <= value < 2**63):
        raise _wrong(what, "a whole number")


def _time(value: Any, what: str) -> None:
    """RFC 3339, 5.6, in the one way of writing that Go reads."""
    _text(value, what)
    if value is not None and not _is_time(value):
        raise _wrong(f"{what}, {value[:40]!r},", "a time like 2006-01-02T15:04:05Z")


def _is_time(text: str) -> bool:
    try:
        return bool(_TIME.match(text) and datetime.fromisoformat(text))
    except ValueError:
        return False


def _base64(value: Any, what: str) -> None:
    _text(value, what)
    try:
        base64.b64decode(value or "", validate=True)
    except ValueError:
        raise _wrong(what, "in base64") from None


def _list(member: _Check) -> _Check:
    def check(value: Any, what: str) -> None:
        if value is not None and not isinstance(value, list):
            raise _wrong(what, "a list")
        for each in value or ():
            member(each, f"a member of {what}")

    return check


def _map(member: _Check) -> _Check:
    def check(value: Any, what: str) -> None:
        if value is not None and not isinstance(value, dict):
            raise _wrong(what, "an object")
        for name, each in (value or {}).items():
            member(each, f"{what}: {name!r}")

    return check


def _object(members: Mapping[str, _Check]) -> _Check:
    """Go's decoder does not mind the letter case of names."""
    by_name = {name.casefold(): check for name, check in members.items()}

    def check_member(value: Any, what: str) -> None:
        if value is not None and not isinstance(value, dict):
            raise _wrong(what, "an object")
        for name, each in (value or {}).items():
            if found := by_name.get(name.casefold()):
                found(each, f"{what}: {name!r}")

    return check_member


_HEALTH = _object(
    {"Test": _list(_text)}
    | dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"), _number)
)
_RUNTIME = _object(
    dict.fromkeys(
        ("Hostname", "Domainname", "User", "Image", "WorkingDir", "MacAddress",
         "StopSignal"),
        _text,
    )
    | dict.fromkeys(
        ("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce",
         "ArgsEscaped", "NetworkDisabled"),
        _flag,
    )
    | dict.fromkeys(("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"), _list(_text))
    | dict.fromkeys(("ExposedPorts", "Volumes"), _map(_object({})))
    | {"Labels": _map(_text), "StopTimeout": _number, "Healthcheck": _HEALTH}
)  # fmt: skip
_HISTORY = _object(
    {"created": _time, "empty_layer": _flag}
    | dict.fromkeys(("created_by", "author", "comment"), _text)
)
_CONFIG = _object(
    dict.fromkeys(
        ("id", "parent", "comment", "container", "docker_version", "author", "architecture",
         "variant", "os", "os.version"),
        _text,
    )
    | dict.fromkeys(("config", "container_config"), _RUNTIME)
    | {"created": _time, "size": _number, "os.features": _list(_text), "history": _list(_HISTORY)}
)  # fmt: skip

_PLATFORM = _object(
    dict.fromkeys(("architecture", "os", "os.version", "variant"), _text)
    | {"os.features": _list(_text)}
)
_DESCRIPTOR = _object(
    dict.fromkeys(("mediaType", "digest", "artifactType"), _text)
    | {"size": _number, "urls": _list(_text), "data": _base64, "platform": _PLATFORM}
    | {"annotations": _map(_text)}
)
_MANIFEST = _object(
    dict.fromkeys(("mediaType", "artifactType"), _text)
    | {"config": _DESCRIPTOR, "layers": _list(_DESCRIPTOR), "subject": _DESCRIPTOR}
    | {"annotations": _map(_text)}
)
