"""The configuration's schema, and what it makes of a configuration that somebody wrote."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml

from ..recipe.yaml_nodes import Loader
from .mistakes import Key, Mistake, dotted

SCHEMA = files("duccmake.config") / "config.schema.yaml"


def as_plain(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members with text as the list of one or the number that it stands for, without nulls."""
    plain: dict[str, Any] = _lenient(members, _schema(), (), [])
    return plain


def check(members: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mistake]]:
    """The same without what the schema does not let pass, and what is wrong with that."""
    mistakes: list[Mistake] = []
    plain = _lenient(members, _schema(), (), mistakes)
    for key, mistake in _breaches(plain):
        mistakes.append(mistake)
        plain = _without(plain, key)
    return plain, mistakes


# What the schema sees.


@functools.cache
def _schema() -> Any:
    return yaml.load(SCHEMA.read_bytes(), Loader=Loader)


def _lenient(value: Any, schema: Any, key: Key, mistakes: list[Mistake]) -> Any:
    """The value as the schema wants it, where that is no more than another way to write it."""
    types = schema.get("type", ())
    if "object" in types and isinstance(value, Mapping):
        kept = {}
        for name, member in value.items():
            if not isinstance(name, str):
                mistakes.append(
                    Mistake(dotted((*key, str(name))), "the key is no text", "put it in quotes")
                )
            elif member is not None:
                kept[name] = _lenient(member, _member_schema(schema, name), (*key, name), mistakes)
        return kept
    if "array" in types:
        items = [value] if isinstance(value, (str, Mapping)) and value else value
        if isinstance(items, Sequence):
            item_schema = schema.get("items", {})
            return [
                _lenient(item, item_schema, (*key, at), mistakes) for at, item in enumerate(items)
            ]
    if "number" in types or "integer" in types:
        return _number(value, types)
    if "boolean" in types and value in ("true", "false"):
        return value == "true"  # as on the command line
    return {} if value is None and "object" in types else value


def _member_schema(schema: Any, name: str) -> Any:
    others = schema.get("additionalProperties")
    fallback = others if isinstance(others, dict) else {}
    return schema.get("properties", {}).get(name, fallback)


def _named_schema(schema: Any, name: str) -> Any:
    """The schema of a member, be it one of each item of a list."""
    return _member_schema(schema.get("items", schema), name)


def _number(value: Any, types: str | Sequence[str]) -> Any:
    """The number that ``value`` is or spells; what is none that counts anything stays text."""
    number = value
    if isinstance(value, str):
        try:
            number = int(value) if re.fullmatch(r"[+-]?[0-9]+", value) else float(value)
        except ValueError:
            return value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return value
    if not abs(number) < 2**63:  # nor is this true of nan
        return str(value)[:24]
    if "number" in types:
        return float(number)
    return int(number) if number == int(number) else number


# What the schema says.


def _breaches(plain: Any) -> list[tuple[Key, Mistake]]:
    from jsonschema import Draft202012Validator  # slow to import

    breaches: list[tuple[Key, Mistake]] = []
    for error in Draft202012Validator(_schema()).iter_errors(plain):
        key = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            known = error.schema["properties"]
            strange = [(*key, name) for name in error.instance if name not in known]
            breaches += [(name, _unknown(name, known)) for name in strange]
        else:
            breaches.append((key, Mistake(dotted(key), _found(error), _hint(error, key))))
    return breaches


def _without(plain: Any, key: Key) -> Any:
    """``plain`` without what ``key`` names, or without the list that it is in."""
    if not key or not isinstance(plain, Mapping):
        return {}
    name, *rest = key
    kept = dict(plain)
    if rest and isinstance(plain.get(str(name)), Mapping):
        kept[str(name)] = _without(plain[str(name)], tuple(rest))
    else:
        kept.pop(str(name), None)
    return kept


_SECRET = re.compile(r"pass|token|secret|user|login|credential|\bauth\b|api_?key", re.IGNORECASE)


def _unknown(key: Key, known: Iterable[str]) -> Mistake:
    """What to say of an unknown key; never what it holds."""
    name = str(key[-1])
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if _SECRET.search(name) and not name.endswith(("_env", "_file")):
        variables = "'username_env' and 'password_env' of the registry"
        hint = f"put it in an environment variable and name that, with {variables}"
        return Mistake(dotted(key), "credentials do not belong into the configuration", hint)
    if near:
        hint = f"did you mean {dotted((*key[:-1], near[0]))!r}?"
    elif elsewhere := _elsewhere(name, _schema(), ()):
        hint = f"did you mean {dotted(elsewhere)!r}?"
    else:
        hint = f"known here are {', '.join(known)}"
    return Mistake(dotted(key), "there is no such key", hint)


def _elsewhere(name: str, schema: Any, key: Key) -> Key:
    """Where in the schema, if anywhere, the key ``name`` belongs."""
    for child, child_schema in schema.get("properties", {}).items():
        if child == name:
            return (*key, child)
        if found := _elsewhere(name, child_schema, (*key, child)):
            return found
    return ()


_KINDS = {
    "object": "a section",
    "array": "a list",
    "number": "a number",
    "integer": "a whole number",
    "string": "text",
}


def _found(error: Any) -> str:
    value = error.instance
    if isinstance(value, Mapping):
        return "a section" if value else "an empty section"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value in ("", None):
        return "nothing"
    if error.schema.get("writeOnly"):
        return "something else (not shown, as it may be secret)"
    shown = repr(value)
    return f"found {shown if len(shown) <= 80 else shown[:80] + '...'}"


def _hint(error: Any, key: Key) -> str:
    limit = error.validator_value
    if error.validator == "enum":
        near = difflib.get_close_matches(str(error.instance), limit, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        return f"use one of {', '.join(filter(None, limit))}{guess}"
    if error.validator in ("minimum", "exclusiveMinimum", "maximum"):
        words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
        return f"use {words[error.validator]} {limit}"
    named = [part for part in key if isinstance(part, str)]
    schema = functools.reduce(_named_schema, named, _schema())
    if examples := schema.get("examples"):
        return f"write it like '{named[-1]}: {examples[0]}'"
    kind = limit[0] if isinstance(limit, list) else limit
    return f"write {_KINDS.get(kind, 'something')} there, or remove it"
