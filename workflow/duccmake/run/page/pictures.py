"""Pictures of a status document as SVG: for the page, whose style sheet colours them, or alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from xml.etree import ElementTree

_SVG = "{http://www.w3.org/2000/svg}"

_DELAYS = (60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_DELAY_NAMES = ("< 1 min", "< 5 min", "< 15 min", "< 1 h", "< 4 h", "< 1 day", "longer")


def delays(seconds: Sequence[float]) -> str:
    """How long images took from when a poll found them until they were visible."""
    return _bare(_delays(seconds))


def growth(days: Sequence[Mapping[str, Any]]) -> str:
    """The bytes of all layers by day."""
    return _bare(_growth(days))


def drawings(document: Mapping[str, Any]) -> dict[str, bytes]:
    """All pictures of a document that there are, as files."""
    found = {
        "delays": _delays(document["push_to_visible"]),
        "growth": _growth(document["days"]),
    }
    return {name: drawing for name, drawing in found.items() if drawing}


def _delays(seconds: Sequence[float]) -> bytes:
    counts = [0] * len(_DELAY_NAMES)
    for one in seconds:
        counts[bisect_right(_DELAYS, one)] += 1
    return _drawn("Bar", counts, x_labels=_DELAY_NAMES) if any(counts) else b""


def _growth(days: Sequence[Mapping[str, Any]]) -> bytes:
    points = [(date.fromisoformat(day["day"]), day["bytes"] / 1e9) for day in days]
    if len(points) < 2:
        return b""
    first, last = points[0][0], points[-1][0]
    labels = sorted({first + (last - first) * n / 3 for n in range(4)})
    return _drawn("DateLine", points, x_labels=labels, unit=" GB", show_dots=False)


def _drawn(kind: str, values: Sequence[Any], *, unit: str = "", **options: Any) -> bytes:
    # Slow to import, and needed at the end of a run alone.
    import pygal

    chart = getattr(pygal, kind)(
        width=640,
        height=240,
        js=[],
        show_legend=False,
        margin=4,
        margin_left=24,
        margin_right=40,
        min_scale=2,
        max_scale=5,
        include_x_axis=True,
        truncate_label=-1,
        value_formatter=lambda value: f"{value:,.4g}{unit}",
        **options,
    )
    chart.add("", values)
    drawing: bytes = chart.render()
    return drawing


def _bare(drawing: bytes) -> str:
    """A chart without styles and scripts of its own, which the page's policy refuses."""
    if not drawing:
        return ""
    root = ElementTree.fromstring(drawing)  # noqa: S314 (drawn just now)
    for parent in list(root.iter()):
        for child in list(parent):
            # What a script would show when somebody points at it.
            if child.tag.removeprefix(_SVG) in ("style", "script", "defs", "desc", "title"):
                parent.remove(child)
    for element in root.iter():
        element.tag = str(element.tag).removeprefix(_SVG)
        element.attrib.pop("style", None)
    root.attrib = {
        "class": root.get("class", ""),
        "viewBox": root.get("viewBox", ""),
        "aria-hidden": "true",
    }
    return ElementTree.tostring(root, encoding="unicode")
