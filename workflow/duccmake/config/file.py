"""The file that the operator writes, `config/config.yaml`, as plain members."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError
from ..recipe.yaml_nodes import BROKEN

DEFAULT_CONFIG = Path("config/config.yaml")
"""The file that the workflow reads by itself, from the working directory."""


def read_file(path: Path) -> Mapping[str, Any]:
    """The members of a configuration file; an empty one has none.

    Raises `ConfigError` with the line where it is no YAML, or no mapping.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    found = read_yaml(raw, str(path))
    if not isinstance(found, Mapping | None):
        raise ConfigError(f"{path} is no mapping", hint="it holds lines like 'recipe: list.yaml'")
    return found or {}


def read_yaml(raw: bytes | str, what: str) -> Any:
    """What YAML stands for; `ConfigError`, with the line, where ``what`` is none."""
    try:
        return yaml.safe_load(raw)
    except (yaml.YAMLError, *BROKEN, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{what} is not YAML: {line}{problem}",
            hint="mend that; config/README.md has all keys",
        ) from None
