"""DUCC's own bookkeeping files, as values: what its garbage collection reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

from .json_files import dump

log = logging.getLogger(__name__)


def origins(existing: bytes, configs: Iterable[str]) -> bytes:
    """``origin.json`` of a layer, with the configurations of more images that have it."""
    known = _parse(existing)
    listed = known.get("origin") if isinstance(known, dict) else None
    merged = dict.fromkeys(listed if isinstance(listed, list) else [])
    merged.update(dict.fromkeys(configs))
    return dump({"origin": list(merged)})


def origins_without(existing: bytes, config: str) -> bytes:
    """``origin.json`` of a layer, without a configuration that is gone."""
    known = _parse(existing)
    listed = known.get("origin") if isinstance(known, dict) else None
    return dump({"origin": [name for name in listed or [] if name != config]})


def folded(value: Any) -> Any:
    """A manifest's JSON with its members named as the specification has them.

    DUCC writes them with a capital (``Config``, ``Digest``) and reads either.
    """
    if isinstance(value, dict):
        return {_MEMBERS.get(key.lower(), key): folded(member) for key, member in value.items()}
    return [folded(item) for item in value] if isinstance(value, list) else value


_MEMBERS = {
    name.lower(): name
    for name in ("schemaVersion", "mediaType", "config", "layers", "digest", "size")
}


def _parse(content: bytes) -> Any:
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        log.warning("a file of DUCC's bookkeeping is no JSON and is written anew")
        return None
