"""Nodes of YAML documents: where they stand, and what they are in plain values and in words."""

from __future__ import annotations

import re
from typing import Any

import yaml

Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The fast one where PyYAML has it: every job reads the schema of the configuration."""

BROKEN = (ValueError, ArithmeticError, LookupError, AttributeError)
"""What PyYAML raises for a tag whose text is none of its kind, such as ``!!timestamp x``."""

MAX_SHOWN = 200
"""The most characters of a text that a message shows."""

# Nothing but a digest follows an "@", and no digest has a slash in it.
CREDENTIALS = re.compile(
    r"(?:[A-Za-z0-9+.-]+://)?[^/@]*@(?!sha[0-9])|.*://[^/@]*@|[^@]*@(?!sha(?:256|512):).*/",
    re.DOTALL | re.IGNORECASE,
)


def line_of(marked: yaml.Node | yaml.Event) -> int:
    """The line on which it begins, from 1."""
    mark = marked.start_mark
    return mark.line + 1 if mark else 1


def plain_scalar(node: yaml.Node) -> Any:
    """The value of a node that is neither list nor mapping; what YAML cannot make stays a node."""
    if node.tag == "tag:yaml.org,2002:str":
        return node.value
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, *BROKEN):
        return node


def plain_value(node: yaml.Node, depth: int = 1) -> Any:
    """The node's value, as deep as the schema looks; what JSON has no type for stays a node."""
    if isinstance(node, yaml.SequenceNode):
        return [plain_value(child, depth - 1) for child in node.value] if depth else []
    if isinstance(node, yaml.MappingNode):
        return {}
    return plain_scalar(node)


def kind_of(node: yaml.Node) -> str:
    """What a node is, in words."""
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    value = plain_value(node)
    if isinstance(value, str):
        return "text" if value else "an empty text"
    return "empty" if value is None else f"{show(node)}, which YAML takes for no text"


def show(node: yaml.Node) -> str:
    """What stands at the node, near enough for people to find it; never credentials."""
    if isinstance(node, yaml.ScalarNode):
        text = node.value
    elif isinstance(node, yaml.MappingNode) and (image := image_of(node)):
        text = image
    elif isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        text = ": ".join(part.value for part in node.value[0] if isinstance(part, yaml.ScalarNode))
    else:
        return kind_of(node)
    return hidden(text)


def hidden(text: str) -> str:
    """A text that somebody wrote, as a message can show it: no longer than that, no credentials."""
    return shorten(f"...@{text.rpartition('@')[2]}" if CREDENTIALS.match(text) else text)


def image_of(node: yaml.MappingNode) -> str:
    """What an entry that is a mapping says of its image."""
    return next(
        (
            value.value
            for key, value in node.value
            if getattr(key, "value", None) == "image" and isinstance(value, yaml.ScalarNode)
        ),
        "",
    )


def shorten(text: str) -> str:
    """A text that a message can show."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
