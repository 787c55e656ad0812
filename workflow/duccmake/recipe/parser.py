"""Reading wish lists: DUCC's recipe (version 1) and more (2), with the line of every entry.

A file that is unusable as a whole raises `InvalidRecipe`.  An entry that is wrong
becomes a `BadEntry`, so that the others can go on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from ..errors import InvalidReference
from .document import compose
from .entry import EntryError, parse_entry
from .images import fault_of, reference_of
from .members import (
    entries_of,
    example,
    faulty_entries,
    members_of,
    recipe_schema,
    text_of,
    unknown_keys,
    unknown_variables,
)
from .model import DEFAULT_OUTPUT_FORMAT, BadEntry, Recipe, Wish, with_wishes
from .yaml_nodes import image_of, line_of, show


def parse(path: Path, raw: bytes) -> Recipe:
    """A recipe from its bytes; ``path`` is what messages call it."""
    members = members_of(path, compose(path, raw))
    faulty = faulty_entries(path, members)
    user = text_of(members, "user")
    output_format = text_of(members, "output_format") or DEFAULT_OUTPUT_FORMAT
    remarks = unknown_keys(path, members) + unknown_variables(path, members)
    bad: list[BadEntry] = []
    ignored: list[str] = []
    for node in entries_of(members, "ignoreErrors"):
        if id(node) in faulty:
            bad.append(_bad_glob(path, node))
        else:
            ignored.append(node.value.strip())
    wishes: list[Wish] = []
    for node in entries_of(members, "input"):
        try:
            wishes.append(_wish(path, node, id(node) in faulty))
        except InvalidReference as error:
            line = error.line if isinstance(error, EntryError) else line_of(node)
            bad.append(BadEntry(show(node), line, error.found, error.hint, path))
    recipe = Recipe(
        path=path,
        repository=text_of(members, "cvmfs_repo"),
        user=user,
        output_format=output_format,
        bad_entries=tuple(sorted(bad, key=lambda entry: entry.line)),
        remarks=tuple(remarks),
        ignored=tuple(ignored),
    )
    return with_wishes(recipe, wishes)


def _wish(path: Path, node: yaml.Node, faulty: bool) -> Wish:
    if faulty or not isinstance(node, yaml.MappingNode):
        return Wish(reference_of(node, faulty), line_of(node), path=path)
    if len(node.value) == 1 and not image_of(node):
        # An image whose tag YAML takes for a value; or a key that is misspelled.
        fault = fault_of(node)
        if fault.hint.startswith("write - "):
            raise fault
    image, wished = parse_entry(node, recipe_schema()["$defs"]["entry"])
    reference = reference_of(image, False)
    if wished.tags is not None and not reference.is_glob:
        reference = replace(reference, tag="*")
    return Wish(reference, line_of(node), path=path, wished=wished)


def _bad_glob(path: Path, node: yaml.Node) -> BadEntry:
    error = fault_of(node)
    return BadEntry(
        show(node),
        line_of(node),
        f"ignoreErrors: {error.found}",
        f"write globs over image names as texts, like {example('ignoreErrors')}",
        path,
    )
