"""Nodes of YAML documents: where they stand, and what they are in plain values."""

from __future__ import annotations

from typing import Any

import yaml

Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The fast one where PyYAML has it: every job reads the schema of the configuration."""


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
    except (yaml.YAMLError, ValueError, ArithmeticError):
        return node
