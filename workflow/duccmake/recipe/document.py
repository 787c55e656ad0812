"""A wish list's file, from bytes to YAML nodes."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import yaml

from ..errors import RecipeError
from .faults import Fault, FaultKind, InvalidRecipe
from .yaml_nodes import Loader, kind_of, line_of

MAX_BYTES = 8 * 1024**2
"""The largest recipe file that is read."""

_MAX_DEPTH = 32
_MAX_ALIASES = 1000


def read(path: Path) -> bytes:
    """The bytes of a wish list's file; `RecipeError` where it cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            return read_from(file, path)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path}: the recipe cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="see 'recipe' in the configuration: paths count from the working directory",
        ) from None


def read_from(file: BinaryIO, path: Path) -> bytes:
    """The bytes of a file that is open; `RecipeError` where there are too many."""
    raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise RecipeError(
            f"{path}: the recipe is larger than {MAX_BYTES // 1024**2} MiB",
            hint="split it: 'recipe' in the configuration may be a list",
        )
    return raw


def compose(path: Path, raw: bytes) -> yaml.MappingNode:
    """The root node of a wish list; `InvalidRecipe` where it is no mapping in YAML."""
    try:
        _refuse_bombs(path, raw)
        node = yaml.compose(raw, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 0)
        hint = "look at indentation, quotes and dashes there and in the line before"
        reason = error.problem or error.context or ""
        if reason.startswith("but ") and error.context:
            reason = f"{error.context} {reason}"
        raise _not_yaml(path, line, column, reason, hint) from None
    except yaml.reader.ReaderError as error:
        before = raw[: error.position].split(b"\n")
        hint = "remove that character; the file must be UTF-8"
        line, column = len(before), len(before[-1]) + 1
        raise _not_yaml(path, line, column, error.reason, hint) from None
    if not isinstance(node, yaml.MappingNode):
        found = "empty" if node is None else kind_of(node)
        hint = "it begins with the line 'version: 1', and the images stand below 'input:'"
        line, found = line_of(node) if node else 1, f"the recipe is {found}, not a mapping"
        raise InvalidRecipe(Fault(FaultKind.SCHEMA, path, line, "", found, hint))
    return node


def _not_yaml(path: Path, line: int, column: int, reason: object, hint: str) -> InvalidRecipe:
    said = f"not YAML: {reason}"
    return InvalidRecipe(Fault(FaultKind.SYNTAX, path, line, "", said, hint, column))


def _refuse_bombs(path: Path, raw: bytes) -> None:
    """Refuse what no wish list needs, before the parser recurses into it."""
    aliases = 0
    opened: list[str | None] = []
    for event in yaml.parse(raw, Loader=Loader):
        is_endless = False
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            opened.pop()
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            is_endless = event.anchor in opened
        if is_endless or len(opened) > _MAX_DEPTH or aliases > _MAX_ALIASES:
            too_many = aliases > _MAX_ALIASES
            what = "has too many aliases" if too_many else "is nested too deeply"
            hint = "write the images as a plain list below 'input:'"
            fault = Fault(FaultKind.SCHEMA, path, line_of(event), "", f"the recipe {what}", hint)
            raise InvalidRecipe(fault)
