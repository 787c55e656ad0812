"""What changed from one tree to another."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duccmake.tree.changes import NAMED, Changes, Part, TooMany, compare
from duccmake.tree.mtree import DIR, FILE, Entry

TREES = st.dictionaries(st.sampled_from("abcdefgh"), st.binary(max_size=3))


def lines(tree: dict[str, bytes], *, layer: int = 0) -> list[bytes]:
    """A manifest, as an image's flat tree has it."""
    top = Entry(b".", DIR, layer=layer)
    files = (
        Entry(
            name.encode(),
            FILE,
            0o644,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            layer=layer,
        )
        for name, content in sorted(tree.items())
    )
    return [b"#mtree v2.0\n", *(entry.line() for entry in (top, *files))]


def changes(before: dict[str, bytes], after: dict[str, bytes], most: int = 100) -> Changes:
    # Which layer has a file is no change of it.
    return compare(lines(before), lines(after, layer=1), most=most)


@given(TREES, TREES)
def test_changes_are_those_of_the_files(before, after):
    found = changes(before, after)

    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    changed = {name for name in after.keys() & before.keys() if after[name] != before[name]}
    assert found.added == Part(len(added), sum(len(after[name]) for name in added))
    assert found.removed == Part(len(removed), sum(len(before[name]) for name in removed))
    assert found.changed == Part(len(changed), sum(len(after[name]) for name in changed))
    assert Counter(kind for kind, *_ in found.largest) == Counter(
        {"added": len(added), "removed": len(removed), "changed": len(changed)}
    )


def test_the_largest_are_named_and_no_more():
    after = {f"file{n}": b"x" * n for n in range(3 * NAMED)}

    found = changes({}, after)

    assert [size for *_, size in found.largest] == list(range(3 * NAMED - 1, 2 * NAMED - 1, -1))
    assert found.added.files == 3 * NAMED


def test_a_path_is_text_of_bounded_length_whatever_it_is():
    name = "d/" + "n" * 250 + "\n\udcff"
    entry = Entry(name.encode(errors="surrogateescape"), FILE, size=1)

    ((_, path, _),) = compare([], [entry.line()], most=10).largest

    assert path.startswith("...") and len(path) < 210 and path.isascii() and path.isprintable()


def test_files_that_no_layer_has_are_left_out():
    made = Entry(b"f", FILE, size=1, flags=frozenset({b"generated"}))

    assert compare([], [made.line()], most=10).added == Part()


def test_files_without_digests_are_compared_by_time():
    old, new = Entry(b"f", FILE, size=1), Entry(b"f", FILE, size=1, mtime_ns=10**9)

    assert compare([old.line()], [old.line()], most=10).changed == Part()
    assert compare([old.line()], [new.line()], most=10).changed == Part(1, 1)


def test_more_files_than_are_compared_are_refused():
    with pytest.raises(TooMany):
        changes({}, {"a": b"", "b": b""}, most=1)
