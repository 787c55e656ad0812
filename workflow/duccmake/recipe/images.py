"""The image that an entry names; and what it was perhaps meant to be, where it names none."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from ..errors import InvalidReference
from ..oci.reference import Reference, is_local
from .yaml_nodes import CREDENTIALS, MAX_SHOWN, hidden, plain_value, shorten, show

_NO_CREDENTIALS = (
    "remove them from the list; the configuration's 'registries' names the environment "
    "variables that hold them"
)


def reference_of(node: yaml.Node, faulty: bool) -> Reference:
    """The image of one entry; `InvalidReference` with the best hint for a bad one."""
    if faulty:
        raise fault_of(node)
    shown, text = show(node), node.value.strip()
    refuse_credentials(text)
    if len(text.split()) > 1:
        raise InvalidReference(
            f"{shown!r} has a blank in it",
            hint=f"give each image a line and a dash of its own: {_as_entries(text.split())}",
        )
    try:
        return Reference.parse(text)
    except InvalidReference as error:
        guess = "" if is_local(text) else _guess(text)
        raise InvalidReference(
            error.found, hint=f"write {_as_entries([guess])}" if guess else error.hint
        ) from None


def refuse_credentials(text: str) -> None:
    """Raise `InvalidReference` where an image has a user or a password before it."""
    if CREDENTIALS.match(text):
        raise InvalidReference(
            f"{hidden(text)!r}: what stands before the '@' looks like credentials",
            hint=_NO_CREDENTIALS,
        )


def fault_of(node: yaml.Node) -> InvalidReference:
    """Why the schema refused an entry."""
    shown = show(node)
    if isinstance(node, yaml.MappingNode):
        guess = _guess(re.sub(r":\s+", ":", shown).rstrip(":"))
        if any(getattr(key, "value", None) == "image" for key, _ in node.value):
            return InvalidReference(
                "the entry is a mapping, which version 1 does not know", hint="write 'version: 2'"
            )
        return InvalidReference(
            f"{shown!r} is no text to YAML, because of the colon and what follows it"
            if len(node.value) == 1
            else "the entry is a mapping",
            hint=f"write {_as_entries([guess])}" if guess else "write an image, in quotes",
        )
    if isinstance(node, yaml.SequenceNode):
        return InvalidReference("the entry is a list", hint="one dash a line")
    if len(node.value) > MAX_SHOWN:
        return InvalidReference(
            f"{shown!r} is {len(node.value)} characters long", hint="no image has such a name"
        )
    if not node.value or plain_value(node) is None:
        return InvalidReference("the entry is empty", hint="remove the line, or write an image")
    return InvalidReference(
        f"{shorten(shown)!r} is no text to YAML",
        hint="write an image, like - 'docker.io/library/debian:12'",
    )


def _guess(text: str) -> str:
    """What an entry that does not parse was perhaps meant to be; empty where nothing fits."""
    scheme, rest = "", text
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/+", text):
        scheme = f"{match[1].lower()}://" if match[1].lower() in ("http", "https") else ""
        rest = text[match.end() :]
    name, at, digest = rest.partition("@")
    folder, slash, last = name.rpartition("/")
    image, colon, tag = last.partition(":")
    lower = f"{folder}{slash}{image}".lower() + (colon + tag if tag else "") + at + digest.lower()
    for candidate in (rest, lower):
        try:
            reference = Reference.parse(scheme + candidate, default_registry="docker.io")
        except InvalidReference:
            continue
        return str(reference) if scheme else reference.name
    return ""


def _as_entries(entries: Iterable[str]) -> str:
    return ", ".join(f"- '{entry}'" for entry in entries)
