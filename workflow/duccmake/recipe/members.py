"""The members of a recipe, held to its schema."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ..oci.reference import Reference
from .faults import Fault, FaultKind, InvalidRecipe
from .model import VARIABLE, variables
from .yaml_nodes import Loader, hidden, kind_of, line_of, plain_value, show

SCHEMA = files("duccmake.recipe") / "recipe.schema.yaml"


@dataclass(frozen=True, slots=True)
class RecipeKey:
    """A key of the recipe: the line on which it stands, and its value."""

    line: int
    node: yaml.Node


def members_of(path: Path, root: yaml.MappingNode) -> dict[str, RecipeKey]:
    """The members of a recipe; `InvalidRecipe` where a key stands twice."""
    members: dict[str, RecipeKey] = {}
    for key_node, node in root.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else kind_of(key_node)
        if key in members:
            raise InvalidRecipe(
                _fault(
                    path,
                    line_of(key_node),
                    hidden(key),
                    f"the key {hidden(key)!r} stands here a second time, "
                    f"first in line {members[key].line}",
                    "join the two",
                )
            )
        members[key] = RecipeKey(line_of(key_node), node)
    return members


def faulty_entries(path: Path, members: dict[str, RecipeKey]) -> set[int]:
    """The ids of the entries' nodes that break the schema; any other breach raises."""
    schema = recipe_schema()
    validator = _validator()
    version = members.get("version")
    if version and not validator.evolve(schema=schema["properties"]["version"]).is_valid(
        plain_value(version.node)
    ):
        raise InvalidRecipe(_wrong_version(path, version))
    faults = [_missing(path, key, members) for key in schema["required"] if key not in members]
    faulty = set()
    plain = {key: plain_value(member.node) for key, member in members.items()}
    if plain.get("version") != 1 and isinstance(plain.get("input"), list):
        # Entries that are mappings are looked at one by one, each with its lines.
        plain["input"] = [{"image": "any"} if item == {} else item for item in plain["input"]]
    for error in validator.iter_errors(plain):
        if error.validator == "required":
            continue
        key, *index = error.absolute_path
        if index:
            faulty.add(id(members[str(key)].node.value[index[0]]))
        else:
            faults.append(_wrong_member(path, str(key), members[str(key)]))
    if faults:
        raise InvalidRecipe(*faults)
    return faulty


@functools.cache
def recipe_schema() -> Any:
    """The schema of a recipe."""
    return yaml.load(SCHEMA.read_bytes(), Loader=Loader)


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator  # slow to import, and jobs read no recipe

    return Draft202012Validator(recipe_schema())


def _fault(path: Path, line: int, key: str, found: str, hint: str) -> Fault:
    return Fault(FaultKind.SCHEMA, path, line, key, found, hint)


def _wrong_version(path: Path, member: RecipeKey) -> Fault:
    found = f"{show(member.node)!r} is no version of a recipe"
    hint = "write 'version: 1', or 'version: 2' where entries are mappings"
    return _fault(path, member.line, "version", found, hint)


def _missing(path: Path, key: str, members: dict[str, RecipeKey]) -> Fault:
    unknown = [name for name in members if name not in recipe_schema()["properties"]]
    for near in difflib.get_close_matches(key, unknown, n=1):
        found = f"there is {near!r} but no {key!r}"
        return _fault(path, members[near].line, key, found, f"did you mean {key!r}?")
    return _fault(path, 1, key, f"there is no {key!r}", f"add the line {example(key)!r}")


def _wrong_member(path: Path, key: str, member: RecipeKey) -> Fault:
    types = recipe_schema()["properties"][key]["type"]
    found = kind_of(member.node)
    if found == "text" and "array" in types:
        hint = f"write {key}: ['{show(member.node)}']"
    else:
        hint = f"write it like {example(key)}"
    if found == "text" and key == "cvmfs_repo":
        found = f"{show(member.node)!r}, which cannot be the name of a repository"
    return _fault(path, member.line, key, f"{key!r} is {found}", hint)


def example(key: str) -> str:
    """A line that is right for a key."""
    return f"{key}: {recipe_schema()['properties'][key]['examples'][0]}"


def unknown_keys(path: Path, members: dict[str, RecipeKey]) -> list[Fault]:
    """Each key that no recipe has."""
    known = list(recipe_schema()["properties"])
    folded = {key.lower(): key for key in known}
    faults = []
    for key, member in members.items():
        if key not in known:
            near = difflib.get_close_matches(key.lower(), folded, n=1)
            hint = f"did you mean {folded[near[0]]!r}?" if near else f"known are {', '.join(known)}"
            kind, found = FaultKind.UNKNOWN_KEY, f"the unknown key {hidden(key)!r} is passed over"
            faults.append(Fault(kind, path, member.line, hidden(key), found, hint))
    return faults


def unknown_variables(path: Path, members: dict[str, RecipeKey]) -> list[Fault]:
    """Each variable of ``output_format`` that stands for nothing."""
    known = list(variables(Reference("https", "registry", "repository", "tag")))
    faults = []
    for name in VARIABLE.findall(text_of(members, "output_format")):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean $({near[0]})?" if near else f"known are {', '.join(known)}"
            found = f"'output_format' has the unknown variable $({hidden(name)})"
            line = members["output_format"].line
            kind = FaultKind.UNKNOWN_VARIABLE
            faults.append(Fault(kind, path, line, hidden(name), found, hint))
    return faults


def text_of(members: dict[str, RecipeKey], key: str) -> str:
    """The text of a member that the schema found right; empty where it is absent or null."""
    member = members.get(key)
    return (plain_value(member.node) or "") if member else ""


def entries_of(members: dict[str, RecipeKey], key: str) -> list[yaml.Node]:
    """The nodes of a list; none where it is absent or null."""
    member = members.get(key)
    return member.node.value if member and isinstance(member.node, yaml.SequenceNode) else []
