"""What the page has of a status document, and how it is written into the page.

Images are a column each member, so that equal things stand beside each other, and compression
does the rest.  In base64 no text of an image or a registry can be anything but text, wherever
in a page it stands.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import deflate

_SHOWN = 5
"""So many former digests and failures of an image are shown; the document has more."""

_SHORT = len("sha256:") + 12
"""So much is shown of a layer's digest, and of one that an image had before."""

_CHANGES = 1000
"""What changed is shown of so many images, those that were published last."""

_LEVEL = 6

_WHOLE = (
    *("title", "repository", "platform", "platforms", "wish", "sync", "health", "verdict"),
    *("next_try", "current", "first_seen", "published", "revision", "failure", "sizes", "losses"),
    *("layers", "paths"),
)
"""The members of an image that the page has as they are."""


def packed(document: Mapping[str, Any]) -> str:
    """What the page shows of each image and layer: JSON, deflated, in base64."""
    images = document["images"]
    columns: dict[str, list[Any]] = {name: [one[name] for one in images] for name in _WHOLE}
    columns["wanted"] = [_if_other(one["wanted"], one["current"]) for one in images]
    columns["failures"] = [one["failures"][:_SHOWN] for one in images]
    columns["history"] = [
        [(move["digest"][:_SHORT], move["seen"]) for move in one["history"][:_SHOWN]]
        for one in images
    ]
    newest = sorted((one["published"] or 0.0 for one in images), reverse=True)[:_CHANGES]
    columns["changes"] = [
        one["changes"] if (one["published"] or 0.0) >= newest[-1] else {} for one in images
    ]
    members = {
        **{name: document[name] for name in ("made", "days", "totals")},
        "images": columns,
        "layers": [(one["digest"][:_SHORT], one["bytes"]) for one in document["layers"]],
    }
    text = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
    # What a registry said may be no Unicode.
    content = deflate.zlib_compress(text.encode(errors="backslashreplace"), _LEVEL)
    return base64.b64encode(content).decode()


def _if_other(value: Any, than: Any) -> Any:
    return None if value == than else value
