"""Reading wish lists: DUCC's recipe (version 1) and more (2), with the line of every entry.

A file that is unusable as a whole raises `RecipeError`.  An entry that is wrong
becomes a `BadEntry`, so that the others can go on.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ..errors import InvalidReference, RecipeError
from ..oci.reference import Reference, is_local
from .entry import EntryError, parse_entry
from .model import (
    DEFAULT_OUTPUT_FORMAT,
    VARIABLE,
    BadEntry,
    Recipe,
    Wish,
    join,
    variables,
    with_wishes,
)
from .yaml_nodes import Loader, line_of, plain_scalar

SCHEMA = files("duccmake.recipe") / "recipe.schema.yaml"

MAX_BYTES = 8 * 1024**2
"""The largest recipe file that is read."""

_MAX_DEPTH = 32
_MAX_ALIASES = 1000
_MAX_SHOWN = 200


def load(path: Path) -> Recipe:
    """Read one recipe file; `RecipeError` where it is unusable as a whole."""
    return parse(path, read(path))


def parse(path: Path, raw: bytes) -> Recipe:
    """A recipe from its bytes; ``path`` is what messages call it."""
    members = _members(path, _compose(path, raw))
    faulty = _validate(path, members)
    user = _text(members, "user")
    output_format = _text(members, "output_format") or DEFAULT_OUTPUT_FORMAT
    warnings = _unknown_keys(path, members) + _unknown_variables(path, members)
    bad: list[BadEntry] = []
    ignored: list[str] = []
    for node in _entries(members, "ignoreErrors"):
        if id(node) in faulty:
            bad.append(_bad_glob(path, node))
        else:
            ignored.append(node.value.strip())
    wishes: list[Wish] = []
    for node in _entries(members, "input"):
        try:
            wishes.append(_wish(path, node, id(node) in faulty))
        except InvalidReference as error:
            line = error.line if isinstance(error, EntryError) else line_of(node)
            bad.append(BadEntry(_shown(node), line, error.found, error.hint, path))
    recipe = Recipe(
        path=path,
        repository=_text(members, "cvmfs_repo"),
        user=user,
        output_format=output_format,
        bad_entries=tuple(sorted(bad, key=lambda entry: entry.line)),
        warnings=tuple(warnings),
        ignored=tuple(ignored),
    )
    return with_wishes(recipe, wishes)


def load_all(paths: Iterable[Path]) -> list[Recipe]:
    """Read several recipe files: one `Recipe` for each repository that they name.

    Files that name the same repository are joined: wishes, bad entries and the
    globs of ``ignoreErrors``, which then hold for the wishes of all of them.  They
    must agree on ``user`` and ``output_format``.  A file named twice is read once.
    """
    return join(load(path) for path in {path.resolve(): path for path in paths}.values())


# From bytes to YAML nodes.


def read(path: Path) -> bytes:
    """The bytes of a wish list's file; `RecipeError` where it cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path}: the recipe cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="see 'recipe' in the configuration: paths count from the working directory",
        ) from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(
            f"{path}: the recipe is larger than {MAX_BYTES // 1024**2} MiB",
            hint="split it: 'recipe' in the configuration may be a list",
        )
    return raw


def _compose(path: Path, raw: bytes) -> yaml.MappingNode:
    try:
        _refuse_bombs(path, raw)
        node = yaml.compose(raw, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}"
        raise RecipeError(
            f"{place}: not YAML: {error.problem or error.context}",
            hint="look at indentation, quotes and dashes there and in the line before",
        ) from None
    except yaml.reader.ReaderError as error:
        before = raw[: error.position].split(b"\n")
        raise RecipeError(
            f"{path}:{len(before)}:{len(before[-1]) + 1}: not YAML: {error.reason}",
            hint="remove that character; the file must be UTF-8",
        ) from None
    if not isinstance(node, yaml.MappingNode):
        found = "empty" if node is None else _kind(node)
        raise RecipeError(
            f"{path}:{line_of(node) if node else 1}: the recipe is {found}, not a mapping",
            hint="it begins with the line 'version: 1', and the images stand below 'input:'",
        )
    return node


def _refuse_bombs(path: Path, raw: bytes) -> None:
    """Refuse what no wish list needs, before the parser recurses into it."""
    depth = aliases = 0
    for event in yaml.parse(raw, Loader=Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > _MAX_DEPTH or aliases > _MAX_ALIASES:
            what = "is nested too deeply" if depth > _MAX_DEPTH else "has too many aliases"
            raise RecipeError(
                f"{path}:{line_of(event)}: the recipe {what}",
                hint="write the images as a plain list below 'input:'",
            )


# From YAML nodes to checked members.


@dataclass(frozen=True, slots=True)
class _Member:
    line: int
    node: yaml.Node


def _members(path: Path, root: yaml.MappingNode) -> dict[str, _Member]:
    members: dict[str, _Member] = {}
    for key_node, node in root.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else _kind(key_node)
        if key in members:
            raise RecipeError(
                f"{path}:{line_of(key_node)}: the key {key!r} stands here a second time, "
                f"first in line {members[key].line}",
                hint="join the two",
            )
        members[key] = _Member(line_of(key_node), node)
    return members


def _validate(path: Path, members: dict[str, _Member]) -> set[int]:
    """The ids of the entries' nodes that break the schema; any other breach raises."""
    schema = _schema()
    validator = _validator()
    version = members.get("version")
    if version and not validator.evolve(schema=schema["properties"]["version"]).is_valid(
        _plain(version.node)
    ):
        raise _wrong_version(path, version)
    faults = [_missing(path, key, members) for key in schema["required"] if key not in members]
    faulty = set()
    plain = {key: _plain(member.node) for key, member in members.items()}
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
        raise _one_error(faults)
    return faulty


@functools.cache
def _schema() -> Any:
    return yaml.load(SCHEMA.read_bytes(), Loader=Loader)


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator  # slow to import, and jobs read no recipe

    return Draft202012Validator(_schema())


def _wrong_version(path: Path, member: _Member) -> RecipeError:
    return RecipeError(
        f"{path}:{member.line}: {_shown(member.node)!r} is no version of a recipe",
        hint="write 'version: 1', or 'version: 2' where entries are mappings",
    )


def _missing(path: Path, key: str, members: dict[str, _Member]) -> RecipeError:
    unknown = [name for name in members if name not in _schema()["properties"]]
    for near in difflib.get_close_matches(key, unknown, n=1):
        return RecipeError(
            f"{path}:{members[near].line}: there is {near!r} but no {key!r}",
            hint=f"did you mean {key!r}?",
        )
    return RecipeError(f"{path}:1: there is no {key!r}", hint=f"add the line {_example(key)!r}")


def _wrong_member(path: Path, key: str, member: _Member) -> RecipeError:
    types = _schema()["properties"][key]["type"]
    found = _kind(member.node)
    if found == "text" and "array" in types:
        hint = f"write {key}: ['{_shown(member.node)}']"
    else:
        hint = f"write it like {_example(key)}"
    if found == "text" and key == "cvmfs_repo":
        found = f"{_shown(member.node)!r}, which cannot be the name of a repository"
    return RecipeError(f"{path}:{member.line}: {key!r} is {found}", hint=hint)


def _example(key: str) -> str:
    return f"{key}: {_schema()['properties'][key]['examples'][0]}"


def _one_error(faults: Sequence[RecipeError]) -> RecipeError:
    if len(faults) == 1:
        return faults[0]
    return RecipeError(" | ".join(str(fault) for fault in faults))


def _unknown_keys(path: Path, members: dict[str, _Member]) -> list[str]:
    known = list(_schema()["properties"])
    folded = {key.lower(): key for key in known}
    warnings = []
    for key, member in members.items():
        if key not in known:
            near = difflib.get_close_matches(key.lower(), folded, n=1)
            hint = f"did you mean {folded[near[0]]!r}?" if near else f"known are {', '.join(known)}"
            warnings.append(
                f"{path}:{member.line}: the unknown key {_cut(key)!r} is passed over; {hint}"
            )
    return warnings


def _unknown_variables(path: Path, members: dict[str, _Member]) -> list[str]:
    known = list(variables(Reference("https", "registry", "repository", "tag")))
    warnings = []
    for name in VARIABLE.findall(_text(members, "output_format")):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean $({near[0]})?" if near else f"known are {', '.join(known)}"
            warnings.append(
                f"{path}:{members['output_format'].line}: 'output_format' has the unknown "
                f"variable $({_cut(name)}); {hint}"
            )
    return warnings


def _text(members: dict[str, _Member], key: str) -> str:
    """The text of a member that the schema found right; empty where it is absent or null."""
    member = members.get(key)
    return (_plain(member.node) or "") if member else ""


def _entries(members: dict[str, _Member], key: str) -> list[yaml.Node]:
    member = members.get(key)
    return member.node.value if member and isinstance(member.node, yaml.SequenceNode) else []


# Nodes.


def _plain(node: yaml.Node, depth: int = 1) -> Any:
    """The node's value, as deep as the schema looks; what JSON has no type for stays a node."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, depth - 1) for child in node.value] if depth else []
    if isinstance(node, yaml.MappingNode):
        return {}
    return plain_scalar(node)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    value = _plain(node)
    if isinstance(value, str):
        return "text" if value else "an empty text"
    return "empty" if value is None else f"{_shown(node)}, which YAML takes for no text"


def _shown(node: yaml.Node) -> str:
    """What stands at the node, near enough for people to find it; never credentials."""
    if isinstance(node, yaml.ScalarNode):
        text = node.value
    elif isinstance(node, yaml.MappingNode) and (image := _image_of(node)):
        text = image
    elif isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        text = ": ".join(part.value for part in node.value[0] if isinstance(part, yaml.ScalarNode))
    else:
        return _kind(node)
    if _CREDENTIALS.match(text):
        text = f"...@{text.rpartition('@')[2]}"
    return _cut(text)


def _image_of(node: yaml.MappingNode) -> str:
    """What an entry that is a mapping says of its image."""
    return next(
        (
            value.value
            for key, value in node.value
            if getattr(key, "value", None) == "image" and isinstance(value, yaml.ScalarNode)
        ),
        "",
    )


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


# Entries.

# Nothing but a digest follows an "@", and no digest has a slash in it.
_CREDENTIALS = re.compile(
    r"(?:[A-Za-z0-9+.-]+://)?[^/@]*@(?!sha[0-9])|[^@]*@(?!sha(?:256|512):).*/",
    re.DOTALL | re.IGNORECASE,
)

_NO_CREDENTIALS = (
    "remove them from the list; the configuration's 'registries' names the environment "
    "variables that hold them"
)


def _wish(path: Path, node: yaml.Node, faulty: bool) -> Wish:
    if faulty or not isinstance(node, yaml.MappingNode):
        return Wish(_reference(node, faulty), line_of(node), path=path)
    if len(node.value) == 1 and not _image_of(node):
        # An image whose tag YAML takes for a value; or a key that is misspelled.
        fault = _fault(node, _shown(node))
        if fault.hint.startswith("write - "):
            raise fault
    image, wished = parse_entry(node, _schema()["$defs"]["entry"])
    reference = _reference(image, False)
    if wished.tags is not None and not reference.is_glob:
        reference = replace(reference, tag="*")
    return Wish(reference, line_of(node), path=path, wished=wished)


def _reference(node: yaml.Node, faulty: bool) -> Reference:
    """The image of one entry; `InvalidReference` with the best hint for a bad one."""
    shown = _shown(node)
    if faulty:
        raise _fault(node, shown)
    text = node.value.strip()
    if _CREDENTIALS.match(text):
        raise InvalidReference(
            f"{shown!r}: what stands before the '@' looks like credentials", hint=_NO_CREDENTIALS
        )
    if len(text.split()) > 1:
        raise InvalidReference(
            f"{shown!r} has a blank in it",
            hint=f"give each image a line and a dash of its own: {_as_entries(text.split())}",
        )
    try:
        return Reference.parse(text)
    except InvalidReference as error:
        guess = "" if is_local(text) else _guess(text)
        raise InvalidReference(
            error.found, hint=f"write {_as_entries([guess])}" if guess else error.hint
        ) from None


def _fault(node: yaml.Node, shown: str) -> InvalidReference:
    """Why the schema refused an entry."""
    if isinstance(node, yaml.MappingNode):
        guess = _guess(re.sub(r":\s+", ":", shown).rstrip(":"))
        if any(getattr(key, "value", None) == "image" for key, _ in node.value):
            return InvalidReference(
                "the entry is a mapping, which version 1 does not know", hint="write 'version: 2'"
            )
        return InvalidReference(
            f"{shown!r} is no text to YAML, because of the colon and what follows it"
            if len(node.value) == 1
            else "the entry is a mapping",
            hint=f"write {_as_entries([guess])}" if guess else "write an image, in quotes",
        )
    if isinstance(node, yaml.SequenceNode):
        return InvalidReference("the entry is a list", hint="one dash a line")
    if len(node.value) > _MAX_SHOWN:
        return InvalidReference(
            f"{shown!r} is {len(node.value)} characters long", hint="no image has such a name"
        )
    if not node.value or _plain(node) is None:
        return InvalidReference("the entry is empty", hint="remove the line, or write an image")
    return InvalidReference(
        f"{_cut(shown)!r} is no text to YAML",
        hint="write an image, like - 'docker.io/library/debian:12'",
    )


def _bad_glob(path: Path, node: yaml.Node) -> BadEntry:
    error = _fault(node, _shown(node))
    return BadEntry(
        _shown(node),
        line_of(node),
        f"ignoreErrors: {error.found}",
        f"write globs over image names as texts, like {_example('ignoreErrors')}",
        path,
    )


def _guess(text: str) -> str:
    """What an entry that does not parse was perhaps meant to be; empty where nothing fits."""
    scheme, rest = "", text
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/+", text):
        scheme = f"{match[1].lower()}://" if match[1].lower() in ("http", "https") else ""
        rest = text[match.end() :]
    name, at, digest = rest.partition("@")
    folder, slash, last = name.rpartition("/")
    image, colon, tag = last.partition(":")
    lower = f"{folder}{slash}{image}".lower() + (colon + tag if tag else "") + at + digest.lower()
    for candidate in (rest, lower):
        try:
            reference = Reference.parse(scheme + candidate, default_registry="docker.io")
        except InvalidReference:
            continue
        return str(reference) if scheme else reference.name
    return ""


def _as_entries(entries: Iterable[str]) -> str:
    return ", ".join(f"- '{entry}'" for entry in entries)
