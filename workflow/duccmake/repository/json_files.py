"""The files of JSON that a repository has of its own, as bytes."""

from __future__ import annotations

import json
from pathlib import Path


def content(path: Path) -> bytes:
    """What is in a file; empty where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def dump(value: object) -> bytes:
    """JSON as it is kept in a repository."""
    return json.dumps(value, indent=1).encode() + b"\n"
