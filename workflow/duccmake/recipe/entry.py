"""Entries of a recipe of version 2 that are mappings: an image, and what is wished of it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ..errors import InvalidReference
from ..oci.reference import Platform
from ..oci.tags import TagRules
from ..products import Product, in_order
from .yaml_nodes import hidden, line_of, plain_scalar

_MAX_NODES = 10_000
_TAG_GLOB = re.compile(r"[a-zA-Z0-9_*?][a-zA-Z0-9._*?-]{0,127}\Z")


@dataclass(frozen=True, slots=True)
class Wished:
    """What is wished of an entry's images, where that is not as for all others.

    Empty ``platforms`` and ``products`` are the configuration's; without ``tags``
    the reference alone says which tags are meant.
    """

    platforms: tuple[Platform, ...] = ()
    products: tuple[Product, ...] = ()
    tags: TagRules | None = None


NOTHING_SPECIAL = Wished()


class EntryError(InvalidReference):
    """A mapping that is no entry; ``line`` is where the mistake stands."""

    def __init__(self, found: str, *, line: int, hint: str) -> None:
        super().__init__(found, hint=hint)
        self.line = line


def parse_entry(node: yaml.MappingNode, schema: Any) -> tuple[yaml.Node, Wished]:
    """The node of the image, and what is wished; `EntryError` with the first mistake.

    ``schema`` is the one of an entry.
    """
    members = _Members(node)
    members.check(schema)
    plain = members.plain
    platforms = tuple(
        members.platform(text, "platforms") for text in _texts(plain.get("platforms"))
    )
    labels = [platform.label for platform in platforms]
    for at, label in enumerate(labels):
        if label in labels[:at]:
            raise members.mistake(
                f"{str(platforms[at])!r} would be published in the same place as "
                f"{str(platforms[labels.index(label)])!r}",
                "keep one of the two",
                "platforms",
            )
    return members.image, Wished(
        platforms, _products(members, _texts(plain.get("products"))), _tags(members)
    )


def _products(members: _Members, names: Sequence[str]) -> tuple[Product, ...]:
    if names and Product.LAYERS not in names:
        right = ", ".join([Product.LAYERS, *map(hidden, names)])
        raise members.mistake(
            "'layers' is missing in 'products'",
            f"write products: [{right}]: the others are made of them",
            "products",
        )
    return in_order(names)


def _tags(members: _Members) -> TagRules | None:
    rules = members.plain.get("tags")
    if rules is None:
        return None
    globs = {key: _texts(rules.get(key)) for key in ("include", "exclude")}
    for key, texts in globs.items():
        for text in texts:
            if not _TAG_GLOB.match(text):
                raise members.mistake(
                    f"{hidden(text)!r} in '{key}' matches no tag",
                    "write a glob like 'v1.*': a tag has letters, digits, '_', '.' and '-'",
                    "tags",
                    key,
                )
    image = str(members.plain["image"]).strip()
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@" in image or (tag and not {"*", "?"} & set(tag)):
        raise members.mistake(
            "the image has a tag or a digest, and there are 'tags' to choose from",
            "take the tag from the image, or remove 'tags'",
            "tags",
        )
    if tag and globs["include"]:
        raise members.mistake(
            f"the image has the tag glob {tag!r}, and 'tags' has 'include'",
            "write all globs below 'include'",
            "tags",
            "include",
        )
    include = globs["include"] or (tag or "*",)
    return TagRules(include, globs["exclude"], rules.get("keep_last") or 0)


def _texts(value: Any) -> tuple[str, ...]:
    """A list, or a text that stands for a list of one."""
    return (value,) if isinstance(value, str) else tuple(value or ())


class _Members:
    """A mapping node: its plain value, and where each part of it stands."""

    def __init__(self, node: yaml.MappingNode) -> None:
        self._node = node
        self._nodes = 0
        self.plain = self._value(node)
        self.image = next(
            (value for key, value in node.value if getattr(key, "value", None) == "image"), node
        )

    def mistake(self, found: str, hint: str, *path: Any) -> EntryError:
        """The error for what stands at ``path`` below the entry; it names the image."""
        image = self.plain.get("image") if isinstance(self.plain, dict) else None
        name = f"{image.strip()[:200]!r}: " if isinstance(image, str) and "@" not in image else ""
        return EntryError(f"{name}{found}", line=self._line(path), hint=hint)

    def platform(self, text: str, *path: str | int) -> Platform:
        """A platform; the error names the entry."""
        try:
            return Platform.parse(text)
        except InvalidReference as error:
            found = f"{hidden(text)!r} is not a platform"
            raise self.mistake(found, error.hint, *path) from None

    def check(self, schema: Any) -> None:
        """Raise what the schema says of the entry, its first mistake."""
        from jsonschema import Draft202012Validator  # slow to import

        errors = Draft202012Validator(schema).iter_errors(self.plain)
        for error in sorted(errors, key=lambda error: [str(part) for part in error.absolute_path]):
            raise self._breach(error, schema)

    def _breach(self, error: Any, schema: Any) -> EntryError:
        path = tuple(error.absolute_path)
        if error.validator == "required":
            [missing] = [key for key in error.validator_value if key not in error.instance][:1]
            known = error.schema["properties"]
            strange = [key for key in error.instance if key not in known]
            near = difflib.get_close_matches(missing, strange, n=1)
            hint = f"did you mean {missing!r} for {near[0]!r}?" if near else _example(schema, "")
            return self.mistake(f"the entry has no {missing!r}", hint, *path, *near)
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            strange = next(key for key in error.instance if key not in known)
            near = difflib.get_close_matches(strange, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            where = "an entry" if not path else repr(path[-1])
            return self.mistake(
                f"{hidden(str(strange))!r} is no key of {where}", hint, *path, strange
            )
        named = [str(part) for part in path if isinstance(part, str)]
        if error.validator == "enum":
            near = difflib.get_close_matches(str(error.instance), error.validator_value, n=1)
            hint = f"did you mean {near[0]!r}?" if near else _list(error.validator_value)
        else:
            hint = _example(schema, ".".join(named))
        return self.mistake(f"{'.'.join(named)!r} has {_found(error.instance)}", hint, *path)

    def _value(self, node: yaml.Node) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise EntryError(
                "the entry is too large", line=self._line(()), hint="write fewer globs"
            )
        if isinstance(node, yaml.SequenceNode):
            return [self._value(child) for child in node.value]
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                if name in found:
                    raise EntryError(
                        f"the key {hidden(name)!r} stands twice in the entry",
                        line=line_of(key),
                        hint="join the two",
                    )
                plain = self._value(value)
                # An empty member is one that is not there.
                if plain is not None:
                    found[name] = plain
            return found
        return plain_scalar(node)

    def _line(self, path: Sequence[str | int]) -> int:
        node: yaml.Node = self._node
        line = line_of(node)
        for part in path:
            if isinstance(node, yaml.MappingNode):
                pairs = {getattr(key, "value", None): (key, value) for key, value in node.value}
                if part not in pairs:
                    break
                key, node = pairs[part]
                line = line_of(key)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                node = node.value[part]
                line = line_of(node)
        return line


def _found(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return f"{hidden(str(getattr(value, 'value', value)))!r}" if value != "" else "an empty text"


def _list(values: Sequence[str]) -> str:
    return f"use one of {', '.join(values)}"


def _example(schema: Any, key: str) -> str:
    found = schema
    for part in filter(None, key.split(".")):
        found = found.get("properties", {}).get(part, {})
    examples = found.get("examples")
    return f"write it like {examples[0]}" if examples else "see config/README.md"
