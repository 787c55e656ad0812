"""The plain text list of OSG's cvmfs-singularity-sync: one image a line."""

from __future__ import annotations

import io
from pathlib import Path

from ...errors import InvalidReference
from ...oci.reference import Reference
from ..faults import Fault, FaultKind, InvalidRecipe
from ..images import refuse_credentials
from ..model import BadEntry, Recipe, Wish, with_wishes
from ..yaml_nodes import MAX_SHOWN, hidden

_ONE_A_LINE = "write one image a line, like library/debian:12"


def parse_list(path: Path, raw: bytes, repository: str) -> Recipe:
    """A recipe from a list: ``[registry/]repository[:tag]`` a line, ``#`` begins a comment.

    Docker Hub and ``latest`` are meant where nothing is said, and a tag may be a
    glob.  ``path`` is what messages call the list.  A line that is no image becomes
    a `BadEntry`.  Raises `InvalidRecipe` where this is no list of images at all, such
    as an empty file or an error page.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = raw[: error.start].count(b"\n") + 1
        raise InvalidRecipe(
            Fault(FaultKind.SYNTAX, path, at, "", "not UTF-8", _ONE_A_LINE)
        ) from None
    wishes: list[Wish] = []
    bad: list[BadEntry] = []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        entry = line.partition(" #")[0].partition("\t#")[0].strip()
        if not entry or entry.startswith("#"):
            continue
        try:
            refuse_credentials(entry)
            reference = Reference.parse(entry, default_registry="docker.io")
            if reference.is_local:
                raise InvalidReference(f"{entry!r} is in files", hint="use a recipe for these")
            wishes.append(Wish(reference, number, path=path))
        except InvalidReference as error:
            shown = hidden(entry)
            found = error.found if len(entry) <= MAX_SHOWN else f"{shown!r} is no image"
            bad.append(BadEntry(shown, number, found, error.hint, path))
    if not wishes or len(bad) > len(wishes):
        first = f"; its line {bad[0].line} is {bad[0].text[:60]!r}" if bad else ""
        found = (
            f"this is no list of images: {len(wishes)} lines are images, {len(bad)} are not{first}"
        )
        at = bad[0].line if bad else 1
        raise InvalidRecipe(Fault(FaultKind.SCHEMA, path, at, "", found, _ONE_A_LINE))
    return with_wishes(Recipe(path, repository, bad_entries=tuple(bad)), wishes)
