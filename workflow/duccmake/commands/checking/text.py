"""What was found of a wish list, for people: what matters most comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...words import counted, in_bytes
from .check import Checked, Image
from .findings import Finding, Level, Rule

_LISTED = 50
"""How many things of a kind are listed; more are counted."""

_TAGS = 8
"""How many tags of a glob are named."""

_Row = tuple[str, str, str]


def lines(checked: Checked) -> Iterator[str]:
    """A line for each thing, in columns, and one that counts them."""
    rows = list(_rows(checked))
    widths = [max((len(row[at]) for row in rows), default=0) for at in (0, 1)]
    for kind, place, text in rows:
        yield f"{kind:{widths[0]}}  {place:{widths[1]}}  {text}".rstrip()
    yield _total(checked)


def _rows(checked: Checked) -> Iterator[_Row]:
    problems = checked.counted(Level.ERROR)
    unknown = [item for item in problems if item.rule == Rule.UNANSWERED]
    wrong = [item for item in problems if item.rule != Rule.UNANSWERED]
    yield from _limited([_finding("problem", item) for item in wrong])
    yield from (("unknown", "", line) for line in checked.silent)
    yield from _limited([_finding("unknown", item) for item in unknown])
    yield from _limited([_finding("warning", item) for item in checked.counted(Level.WARNING)])
    yield from _limited([_finding("known", item) for item in checked.findings if item.known])
    yield from _limited([("leaves", "", name) for name in checked.leaving])
    path = checked.path.as_posix()
    yield from _limited(
        [
            ("matches", f"{path}:{glob.line}", f"{glob.name}  {_tags(glob.tags)}")
            for glob in checked.globs
            if glob.is_new
        ]
    )
    new = [image for image in checked.images if image.is_new]
    new.sort(key=lambda image: -(image.bytes or 0))
    kind = "new" if checked.is_compared else "image"
    yield from _limited([(kind, f"{path}:{image.line}", _image(image)) for image in new])


def _limited(rows: Sequence[_Row]) -> Iterator[_Row]:
    yield from rows[:_LISTED]
    if len(rows) > _LISTED:
        yield rows[0][0], "", f"and {len(rows) - _LISTED} more"


def _finding(kind: str, finding: Finding) -> _Row:
    return kind, finding.place, finding.message


def _tags(tags: Sequence[str]) -> str:
    named = ", ".join(tags[:_TAGS])
    more = f" and {len(tags) - _TAGS} more" if len(tags) > _TAGS else ""
    return f"{counted(len(tags), 'tag')}{': ' if named else ''}{named}{more}"


def _image(image: Image) -> str:
    name = f"{image.name} ({image.platform})" if image.platform else image.name
    if image.bytes is None or image.layers is None:
        return f"{name}  there; its size was not asked for"
    there = f", {image.there} of them there already" if image.there else ""
    return f"{name}  {in_bytes(image.bytes)} in {counted(image.layers, 'layer')}{there}"


def _total(checked: Checked) -> str:
    names = {image.name for image in checked.images}
    new = {image.name for image in checked.images if image.is_new}
    among = f", {len(new)} of them new" if checked.is_compared else ""
    images = f"{counted(len(names), 'image')}{among}: " if checked.images else ""
    known = sum(item.known for item in checked.findings)
    return (
        f"{checked.path.as_posix()}: {images}"
        f"{counted(len(checked.counted(Level.ERROR)), 'problem')}, "
        f"{counted(len(checked.counted(Level.WARNING)), 'warning')}"
        f"{f', {known} known before' if known else ''}"
        f"{f'; {in_bytes(checked.to_fetch)} to fetch' if checked.images else ''}"
        f"{f'; {len(checked.leaving)} would leave' if checked.leaving else ''}"
    )
