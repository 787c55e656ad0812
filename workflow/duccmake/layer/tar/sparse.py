"""Files with holes: where the stored content belongs (GNU tar manual, "Storing Sparse Files")."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...errors import CorruptLayer, LimitExceeded
from .extensions import decimal
from .headers import number

Extents = tuple[tuple[int, int], ...]
"""Offsets and lengths of what is stored, in the order of the file."""

NextBlock = Callable[[], bytes]
"""The next block behind the header; raises `CorruptLayer` where there is none."""


def gnu_map(fields: Sequence[bytes], next_block: NextBlock, limit: int) -> tuple[int, list[int]]:
    """GNU's old format: four extents and the real size where ustar has the prefix.

    Returns the size and the map.
    """
    area = b"".join(fields[14:])
    # offset 386 of the header is byte 41 of the prefix field, which begins at 345.
    values = [area[41 + 12 * n : 53 + 12 * n] for n in range(8)]
    more = area[137] != 0
    size = number(area[138:150], "real size")
    while more:
        block = next_block()
        values += [block[12 * n : 12 * n + 12] for n in range(42)]
        more = block[504] != 0
        _check_map(len(values) * 12, limit)
    return size, [number(value, "sparse map") for value in values if value.strip(b"\0 ")]


def is_pax_sparse(records: Mapping[bytes, bytes]) -> bool:
    """Whether extended headers say that the member is a sparse file."""
    return any(key.startswith(b"GNU.sparse.") for key in records)


def pax_size(records: Mapping[bytes, bytes]) -> int:
    """The size of a sparse file, holes included."""
    size = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
    if size is None:
        raise CorruptLayer("a sparse file's header does not say its size")
    return decimal(size, "real size")


def pax_map(records: Mapping[bytes, bytes], repeated: list[int]) -> list[int]:
    """The map of PAX formats 0.0 (records that are ``repeated``) and 0.1 (one record)."""
    if b"GNU.sparse.map" not in records:
        return repeated
    text = records[b"GNU.sparse.map"]
    return [decimal(word, "sparse map") for word in text.split(b",") if word]


def pax_map_in_content(next_block: NextBlock, limit: int) -> tuple[list[int], int]:
    """PAX 1.0's map: decimal lines in front of the content, padded to a block.

    Returns how many bytes it has as well.
    """
    lines: list[bytes] = []
    rest = b""
    used = 0
    wanted = 1
    while len(lines) < wanted:
        block = next_block()
        used += len(block)
        _check_map(used, limit)
        *complete, rest = (rest + block).split(b"\n")
        lines += complete
        if lines:
            wanted = 1 + 2 * decimal(lines[0], "sparse map")
    return [decimal(line, "sparse map") for line in lines[1:wanted]], used


def _check_map(size: int, limit: int) -> None:
    if limit and size > limit:
        raise LimitExceeded(
            f"a sparse file's map has more than {limit} bytes",
            hint="raise limits.header_bytes if the image is honest",
        )


def extents(numbers: Sequence[int], size: int, stored: int) -> Extents:
    """A map, held to the file's ``size`` and to the bytes that are ``stored``."""
    if len(numbers) % 2:
        raise CorruptLayer("a sparse file's map has an odd number of values")
    found = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    end = 0
    for offset, length in found:
        if offset < end or offset + length > size:
            raise CorruptLayer("a sparse file's map does not fit the file")
        end = offset + length
    if sum(length for _, length in found) != stored:
        raise CorruptLayer("a sparse file's content does not fit its map")
    return found
