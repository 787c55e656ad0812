"""Puts the page together: template, style, script and data in one file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...fs.files import write_atomically
from ...workspace.results import PAGE
from . import pictures
from .data import packed


def write_page(path: Path) -> None:
    """Write the page of a document beside it, whole or not at all.  Raises `OSError`."""
    page = page_of(json.loads(path.read_bytes()))
    write_atomically(path.with_name(PAGE.name), page.encode(errors="backslashreplace"))


def page_of(document: Mapping[str, Any]) -> str:
    """The page of a document (``status.schema.yaml``).

    It asks nobody for anything: its policy allows its own script and style by their digests,
    and nothing else.  All that others wrote is escaped, or in base64.
    """
    # Slow to import, and needed at the end of a run alone.
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        loader=jinja2.FunctionLoader(_own),
    )
    style, script = _own("page.css"), _own("page.js")
    run, delays = document["run"] or {}, document["push_to_visible"]
    return environment.get_template("page.html").render(
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=packed(document),
        made=datetime.fromtimestamp(document["made"], UTC).isoformat(timespec="seconds"),
        version=document["version"],
        error=run.get("error", ""),
        warnings=run.get("warnings", ()),
        delays=Markup(pictures.delays(delays)),
        delays_said=_delays_said(delays),
        growth=Markup(pictures.growth(document["days"])),
    )


def _own(name: str) -> str:
    """A file of this package."""
    return Path(__file__).with_name(name).read_text()


def _hash(text: str) -> str:
    """A digest as a Content-Security-Policy has it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _delays_said(delays: Sequence[float]) -> str:
    if not delays:
        return ""
    half, most = (sorted(delays)[int(part * (len(delays) - 1))] for part in (0.5, 0.9))
    return f"half within {_minutes(half)}, nine of ten within {_minutes(most)}"


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
