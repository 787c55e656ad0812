"""Real layers, a little changed: what Hypothesis feeds the readers with."""

from __future__ import annotations

from collections.abc import Callable

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
