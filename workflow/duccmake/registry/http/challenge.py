"""WWW-Authenticate headers: what a registry asks for before it answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*')
_SCHEME = re.compile(rf"\s*({_TOKEN})(?:\s+|\s*$|\s*(?=,))")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: its scheme, in lower case, and its parameters (RFC 9110, 11.3)."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Split a header into challenges; commas inside quotes belong to the value.

    What cannot be read ends the parsing: what came before it counts.
    """
    challenges: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(header):
        if header[position] in ", \t":
            position += 1
            continue
        parameter = _PARAMETER.match(header, position)
        if parameter and challenges:
            quoted, plain = parameter.group(2), parameter.group(3)
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            challenges[-1][1].setdefault(parameter.group(1).lower(), value)
            position = parameter.end()
            continue
        scheme = _SCHEME.match(header, position)
        if not scheme:
            break
        challenges.append((scheme.group(1).lower(), {}))
        position = scheme.end()
    return tuple(Challenge(scheme, parameters) for scheme, parameters in challenges)
