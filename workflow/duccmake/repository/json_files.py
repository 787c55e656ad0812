"""The files of JSON that a repository has of its own, as bytes."""

from __future__ import annotations

import json


def dump(value: object) -> bytes:
    """JSON as it is kept in a repository."""
    return json.dumps(value, indent=1).encode() + b"\n"
