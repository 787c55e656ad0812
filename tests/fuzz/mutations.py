"""Real input, a little changed: what Hypothesis feeds the readers with."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from corpus.hostile import ESCAPES
from corpus.images import CASES
from corpus.streams import BLOCK, checked

TARS: list[bytes] = sorted(
    {layer.tar for case in CASES for layer in case.layers}
    | {layer.tar for escape in ESCAPES for layer in escape.layers("/canary")},
    key=lambda tar: (len(tar), tar),
)
"""The archives of the corpus, the simplest first."""

Mutation = Callable[[bytes], bytes]

_FIELDS = {
    "name": (0, 100),
    "mode": (100, 108),
    "uid": (108, 116),
    "size": (124, 136),
    "mtime": (136, 148),
    "kind": (156, 157),
    "target": (157, 257),
    "magic": (257, 265),
    "device": (329, 345),
    "prefix": (345, 500),
}
_VALUES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"/",
            b"..",
            b"../../x",
            b".wh.",
            b".wh..wh..opq",
            b"a/.wh.a",
            b"\x80" + b"\xff" * 11,
            b"\xff" * 12,
            b"77777777777\0",
            b"00000001000\0",
            b"\0" * 12,
            b" ",
            b"9",
        ]
    ),
    st.binary(max_size=12),
    st.sampled_from([bytes([kind]) for kind in b"0123456789xgLKSXV\0D"]),
)


def _block(tar: bytes, number: int) -> int:
    return number % max(1, len(tar) // BLOCK) * BLOCK


def _set_field(number: int, field: str, value: bytes) -> Mutation:
    """Change a header's field and make its checksum right again."""

    def mutate(tar: bytes) -> bytes:
        at = _block(tar, number)
        start, end = _FIELDS[field]
        block = tar[at : at + BLOCK]
        if len(block) < BLOCK:
            return tar
        block = block[:start] + value[: end - start].ljust(end - start, b"\0") + block[end:]
        return tar[:at] + checked(block) + tar[at + BLOCK :]

    return mutate


def _replace(at: int, value: bytes) -> Mutation:
    def mutate(data: bytes) -> bytes:
        here = at % (len(data) + 1)
        return data[:here] + value + data[here + len(value) :]

    return mutate


def _cut(at: int) -> Mutation:
    return lambda data: data[: at % (len(data) + 1)]


def _move(source: int, target: int, *, keep: bool) -> Mutation:
    """Copy or move a block to another place."""

    def mutate(tar: bytes) -> bytes:
        at = _block(tar, source)
        block = tar[at : at + BLOCK]
        rest = tar if keep else tar[:at] + tar[at + BLOCK :]
        to = _block(rest, target)
        return rest[:to] + block + rest[to:]

    return mutate


def _splice(other: bytes, at: int) -> Mutation:
    def mutate(tar: bytes) -> bytes:
        here = _block(tar, at)
        return tar[:here] + other + tar[here:]

    return mutate


_offsets = st.integers(0, 20_000)
_numbers = st.integers(0, 30)
ANY_BYTES = st.one_of(
    st.builds(_replace, _offsets, st.binary(min_size=1, max_size=4)), st.builds(_cut, _offsets)
)
_tar_mutations = st.one_of(
    st.builds(_set_field, _numbers, st.sampled_from(sorted(_FIELDS)), _VALUES),
    st.builds(_set_field, _numbers, st.sampled_from(sorted(_FIELDS)), _VALUES),
    ANY_BYTES,
    st.builds(_move, _numbers, _numbers, keep=st.booleans()),
    st.builds(_splice, st.sampled_from(TARS), _numbers),
)


def applied(data: bytes, mutations: list[Mutation]) -> bytes:
    """The data after all mutations, one after the other."""
    for mutate in mutations:
        data = mutate(data)
    return data


MUTATED_TARS = st.builds(
    applied, st.sampled_from(TARS), st.lists(_tar_mutations, min_size=1, max_size=4)
)


# --- documents -------------------------------------------------------------

Path = tuple[str | int, ...]

_TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "..",
            "../../x",
            "/etc/passwd",
            "a" * 5000,
            "\ud800",
            "\0",
            "\n",
            "é",
            "$(id)",
            "`id`",
            "sha256:" + "a" * 64,
            "sha512:" + "b" * 128,
            "sha256:../../x",
            "1e999",
            "0x10",
            "~",
            "*",
            "linux/amd64",
            "https://r.example.org/a:1",
            "r.example.org/a@b",
            "2024-99-99",
            "%2e%2e",
            "\u202e",
            "[::1]:80/a",
            "http://[",
            "git+https://x//y@z",
            "\x1b[2J",
            "-rf",
            "9" * 30,
        ]
    ),
    st.text(max_size=20),
)
_NESTED: object = 0
for _ in range(80):
    _NESTED = [_NESTED]
VALUES: st.SearchStrategy[object] = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            -1,
            2,
            2**31,
            2**63,
            2**64,
            10**400,
            0.5,
            1e300,
            float("nan"),
            float("inf"),
            [],
            {},
            [[]],
            {"": {}},
            _NESTED,
        ]
    ).map(copy.deepcopy),
    _TEXTS,
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), _TEXTS),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner)),
        max_leaves=6,
    ),
)
"""What stands where something else is expected."""


def _paths(value: object, path: Path = ()) -> list[Path]:
    found = [path]
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for name, member in items[:50]:
        if len(path) < 10:
            found += _paths(member, (*path, name))
    return found


def _at(value: Any, path: Path) -> Any:
    for name in path:
        value = value[name]
    return value


def _changed(draw: st.DrawFn, value: Any, values: st.SearchStrategy[object]) -> Any:
    paths = _paths(value)
    path = draw(st.sampled_from(paths))
    if not path:
        return draw(values) if draw(st.integers(0, 9)) == 0 else value
    parent, name = _at(value, path[:-1]), path[-1]
    kind = draw(st.sampled_from(["set", "set", "set", "remove", "add", "graft", "repeat"]))
    if kind == "set":
        parent[name] = draw(values)
    elif kind == "remove":
        del parent[name]
    elif kind == "graft":
        parent[name] = copy.deepcopy(_at(value, draw(st.sampled_from(paths))))
    elif isinstance(parent, list):
        parent.insert(draw(st.integers(0, len(parent))), draw(values))
    elif kind == "add":
        parent[draw(_TEXTS)] = draw(values)
    else:
        parent[draw(st.sampled_from([str(name).upper(), f"{name} ", str(name)[:-1]]))] = parent[
            name
        ]
    return value


@st.composite
def changed(
    draw: st.DrawFn,
    samples: Sequence[object],
    values: st.SearchStrategy[object] = VALUES,
    most: int = 4,
) -> Any:
    """One of the samples, of lists, dictionaries and what is in them, a little changed."""
    value = copy.deepcopy(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, most))):
        value = _changed(draw, value, values)
    return value


def _as_json(value: object, *, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def _insert(number: int, value: bytes) -> Mutation:
    """Put something behind one of the braces."""

    def mutate(data: bytes) -> bytes:
        braces = [at for at, byte in enumerate(data) if byte in b"{["]
        if not braces:
            return value
        at = braces[number % len(braces)] + 1
        return data[:at] + value + data[at:]

    return mutate


_TWICE = st.sampled_from(
    [
        b'"digest":"sha256:x",',
        b'"size":1,',
        b'"layers":[],',
        b'"manifests":[],',
        b'"a":NaN,',
        b"[" * 3000,
        b'{"a":' * 3000,
        b'"a":' + b"9" * 5000 + b",",
        b"\xef\xbb\xbf",
        b"//\n",
    ]
)
_TEXT_MUTATIONS = st.one_of(ANY_BYTES, st.builds(_insert, _offsets, _TWICE))


def documents(samples: Sequence[object]) -> st.SearchStrategy[bytes]:
    """JSON that is like the samples, or nearly JSON."""
    return st.builds(
        applied,
        st.builds(_as_json, changed(samples), ascii_only=st.booleans()),
        st.lists(_TEXT_MUTATIONS, max_size=2) | st.just([]),
    )
