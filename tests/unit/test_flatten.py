from __future__ import annotations

import json
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.errors import LayerError
from duccmake.layer.flatten import LayerTree, chain_changes, flatten, flatten_image, noted_layers
from duccmake.layer.singularity import Generated
from duccmake.oci.manifest import ImageConfig
from duccmake.repository import overlay_losses
from duccmake.tree import mtree
from duccmake.tree.mtree import CHAR, DIR, FILE, LINK, Entry
from support.pipeline import digest_of
from support.samples import AMD64

ROOT = Entry(b".", DIR, flags=frozenset({b"implied"}))


def d(path: str, mode: int = 0o755, *flags: bytes, **more: object) -> Entry:
    return Entry(path.encode(), DIR, mode=mode, flags=frozenset(flags), **more)  # type: ignore[arg-type]


def implied(path: str, *flags: bytes) -> Entry:
    return d(path, 0o755, b"implied", *flags)


def f(path: str, content: str = "", **more: object) -> Entry:
    sha256 = digest_of(content.encode()).hex
    return Entry(path.encode(), FILE, mode=0o644, size=len(content), sha256=sha256, **more)  # type: ignore[arg-type]


def symlink(path: str, target: str) -> Entry:
    return Entry(path.encode(), LINK, mode=0o777, target=target.encode())


def whiteout(path: str) -> Entry:
    return Entry(path.encode(), CHAR, mode=0, flags=frozenset({b"whiteout"}))


def lower(path: str, target: str) -> Entry:
    return f(path, flags=frozenset({b"lower"}), hardlink=target.encode())


def layer(name: str, *entries: Entry) -> LayerTree:
    every = entries if any(entry.path == b"." for entry in entries) else (ROOT, *entries)
    text = mtree.FORMAT + b"# layer\n" + b"".join(entry.line() for entry in every)
    return LayerTree(digest_of(name.encode()), text)


def merged(*layers: LayerTree, **more: object) -> dict[str, Entry]:
    lines = flatten(layers, **more).lines()  # type: ignore[arg-type]
    return {entry.path.decode(): entry for entry in map(Entry.parse, lines)}


def notes(*layers: LayerTree) -> list[dict[str, Entry]]:
    return [
        {
            (entry := Entry.parse(path + b" " + rest)).path.decode(): entry
            for path, rest in each.items()
        }
        for each in flatten(layers).notes
    ]


def test_entries_name_the_layer_that_provides_them():
    found = merged(layer("1", d("a"), f("a/x"), f("a/y")), layer("2", implied("a"), f("a/y", "2")))
    assert {path: entry.layer for path, entry in found.items()} == {
        ".": 0,
        "a": 0,
        "a/x": 0,
        "a/y": 1,
    }


def test_lines_come_parents_first_and_sorted():
    found = merged(layer("1", f("b"), d("a"), f("a/z"), d("a/b"), f("a/b/c"), d("c")))
    assert list(found) == [".", "b", "a", "a/z", "a/b", "a/b/c", "c"]


def test_lines_can_be_had_twice():
    tree = flatten([layer("1", f("a"), f("b", hardlink=b"a"))])
    assert list(tree.lines()) == list(tree.lines())


def test_an_entry_behind_a_symlink_says_where_its_layer_has_it():
    found = merged(
        layer("1", symlink("lib", "usr/lib"), d("usr"), d("usr/lib")),
        layer("2", implied("lib"), f("lib/x"), implied("lib/d"), f("lib/d/y")),
    )
    assert "lib/x" not in found
    assert (found["usr/lib/x"].layer, found["usr/lib/x"].source) == (1, b"lib/x")
    assert (found["usr/lib/d/y"].layer, found["usr/lib/d/y"].source) == (1, b"lib/d/y")
    assert found["lib"].kind == LINK


def test_a_hard_link_through_a_symlink_has_the_real_path_for_its_source():
    found = merged(
        layer("1", symlink("s", "r"), d("r"), f("r/a")),
        layer("2", lower("b", "s/a")),
    )
    assert (found["b"].layer, found["b"].source) == (0, b"r/a")
    assert found["r/a"].hardlink == b"b"


def test_an_attribute_whose_name_ends_in_link_is_no_link():
    found = merged(layer("1", f("a", xattrs=((b"user.link", b"x"), (b"link", b"y")))))
    assert found["a"].xattrs == ((b"user.link", b"x"), (b"link", b"y"))
    assert found["a"].hardlink == b""


def test_links_to_nothing_name_the_layer_and_both_paths():
    with pytest.raises(LayerError, match=r"b'\./b' is a hard link to b'a'") as raised:
        merged(layer("1", f("x")), layer("2", lower("b", "a")))
    assert str(digest_of(b"2")) in str(raised.value)


def test_a_link_to_a_lower_directory_is_refused():
    with pytest.raises(LayerError, match="directory"):
        merged(layer("1", d("a")), layer("2", lower("b", "a")))


def test_symlinks_in_a_ring_are_refused():
    with pytest.raises(LayerError, match="symlinks"):
        merged(layer("1", symlink("a", "b"), symlink("b", "a")), layer("2", implied("a"), f("a/x")))


def test_forty_symlinks_are_followed():
    links = [symlink(f"l{number}", f"l{number + 1}") for number in range(39)]
    found = merged(layer("1", *links, d("l39")), layer("2", implied("l0"), f("l0/x")))
    assert found["l39/x"].source == b"l0/x"


def test_a_lower_symlink_to_a_file_gives_way_and_the_file_stays():
    for target in ("f", "new/../f", "m", "/f/", "f/below"):
        below = layer("1", f("f"), symlink("l", target), symlink("m", "f"))
        found = merged(below, layer("2", implied("l"), implied("l/d"), f("l/d/x")))
        assert set(found) == {".", "f", "l", "l/d", "l/d/x", "m"}
        assert (found["f"].kind, found["l"].kind) == (FILE, DIR)


def test_a_file_of_the_layer_itself_in_the_way_is_refused():
    with pytest.raises(LayerError, match="one layer"):
        merged(
            layer("1", symlink("a", "b")),
            layer("2", f("b"), implied("a"), f("a/x")),
        )


# --- what an overlay of the layers does not show as it is ----------------


def test_what_opaque_directories_hide_is_noted_as_whiteouts():
    none, found = notes(
        layer("1", d("a"), f("a/x"), d("a/d"), f("a/d/y"), f("a/own")),
        layer("2", d("a", 0o755, b"opaque"), f("a/own")),
    )
    assert none == {}
    assert set(found) == {"a/x", "a/d"}
    assert all(entry.flags == {b"whiteout"} for entry in found.values())


def test_below_a_hidden_directory_that_the_layer_has_again_all_is_noted():
    lower = layer("1", d("a"), d("a/d"), f("a/d/x"), d("a/d/e"), f("a/d/e/y"), f("a/d/e/z"))
    top = layer(
        "2", d("a", 0o755, b"opaque"), d("a/d"), f("a/d/own"), implied("a/d/e"), f("a/d/e/z")
    )
    _, found = notes(lower, top)
    assert set(found) == {"a/d/x", "a/d/e/y"}


def test_directories_that_a_layer_implies_are_noted_where_the_image_has_them_otherwise():
    _, found = notes(
        layer("1", d(".", 0o711), d("a", 0o700, uid=5, mtime_ns=7), f("a/x"), d("b"), implied("c")),
        layer("2", implied("a"), f("a/y"), implied("b"), f("b/y"), implied("c"), f("c/y")),
    )
    assert set(found) == {".", "a"}
    assert (found["a"].mode, found["a"].uid, found["a"].mtime_ns) == (0o700, 5, 7)
    assert found["."].mode == 0o711
    assert found["a"].flags == {b"lost:directories"}


def test_directories_that_a_layer_implies_and_the_image_has_not_are_noted():
    """They are there for whiteouts of what is in no lower layer."""
    _, found = notes(layer("1", f("x")), layer("2", implied("a"), whiteout("a/y")))
    assert found["a"].flags == {b"lost:directories"}
    _, found = notes(layer("1", f("x")), layer("2", implied("a"), implied("a/b"), f("a/b/y")))
    assert found == {}


def test_an_earlier_versions_attributes_of_implied_directories_are_noted_and_are_not_the_images():
    changed = d("a", 0o700, b"implied", uid=5)
    for below, mode in (([], 0o755), ([implied("a"), f("a/x")], 0o755), ([d("a", 0o711)], 0o711)):
        layers = layer("1", *below), layer("2", changed, f("a/y"))
        assert b"lost:directories" in notes(*layers)[1]["a"].flags
        assert merged(*layers)["a"].mode == mode


def test_hard_links_to_lower_layers_are_noted():
    layers = layer("1", f("a", "x")), layer("2", lower("b", "a"))
    assert b"lost:links" in notes(*layers)[1]["b"].flags
    assert noted_layers(layers) == {1}


def test_links_in_a_ring_behind_a_symlink_are_to_what_the_first_leads_to_below():
    base = layer("1", d("r"), f("r/b", "b"), symlink("s", "r"))
    found = merged(base, layer("2", implied("s"), lower("s/a", "r/b"), lower("s/b", "r/a")))
    assert (found["r/a"].source, found["r/b"].source) == (b"r/b", b"")
    assert (found["r/a"].layer, found["r/b"].layer, found["r/b"].hardlink) == (0, 0, b"r/a")
    with pytest.raises(LayerError, match="neither in its layer nor in one below"):
        merged(base, layer("2", implied("s"), lower("s/x", "r/y"), lower("s/y", "r/x")))


def test_a_long_chain_of_links_behind_a_symlink_is_one_file():
    links = [lower(f"s/{number:05}", f"r/{number + 1:05}") for number in range(5000)]
    found = merged(
        layer("1", d("r"), symlink("s", "r")), layer("2", implied("s"), *links, f("s/05000", "x"))
    )
    assert {found[f"r/{number:05}"].source for number in range(5001)} == {b"s/05000"}


def test_notes_are_read_by_the_layers_number_and_counted_by_kind(tmp_path):
    top = layer("2", d("a", 0o755, b"opaque"), f("a/y"))
    base, more = layer("1", d("a", 0o711), f("a/x")), layer("3", implied("a"), f("a/z"))
    tree = flatten([base, top, more, top])
    tree.write(tmp_path / "image")
    found = overlay_losses.read(tmp_path / "image")
    assert {number: overlay_losses.hidden(entries) for number, entries in found.items()} == {
        1: [b"a/x"],
        3: [b"a/z"],
    }
    assert overlay_losses.losses(found) == {}
    flatten([base, more]).write(tmp_path / "3")
    assert overlay_losses.losses(overlay_losses.read(tmp_path / "3")) == {"directories": 1}


def test_what_an_overlay_cannot_show_as_it_is_is_noted_on_the_symlink_and_on_what_was_removed():
    base = layer("1", d("usr"), d("usr/lib"), f("usr/lib/x"), symlink("lib", "usr/lib"))
    _, found = notes(base, layer("2", implied("lib"), whiteout("lib/x"), f("lib/y")))
    assert found["lib"].target == b"usr/lib"
    assert b"lost:covered" in found["lib"].flags
    assert b"lost:whiteouts" in found["lib/x"].flags
    _, opaque = notes(base, layer("2", implied("lib", b"opaque"), f("lib/y")))
    assert b"lost:whiteouts" in opaque["lib/x"].flags


def test_a_symlink_that_the_layer_replaces_is_not_covered():
    base = layer("1", d("usr"), symlink("lib", "usr"))
    _, found = notes(base, layer("2", d("lib"), f("lib/y")))
    assert not any(b"lost:covered" in entry.flags for entry in found.values())


# --- what a layer changes in its chain --------------------------------------


def changes(*layers: LayerTree) -> dict[int, dict[str, Entry]]:
    return {
        number: {
            (entry := Entry.parse(line)).path.decode(): entry
            for line in listing.removeprefix(mtree.FORMAT).splitlines()
        }
        for number, listing in chain_changes(layers, noted_layers(layers)).items()
    }


LINKED = layer(
    "linked", d("usr", 0o711), d("usr/lib", 0o750), f("usr/lib/x"), symlink("lib", "usr/lib")
)


def test_changes_through_a_symlink_are_where_it_leads_with_the_directories_on_the_way():
    top = layer("top", implied("lib"), f("lib/y", "y"), whiteout("lib/x"), f("z"))
    found = changes(LINKED, top)
    assert list(found) == [1]
    assert list(found[1]) == [".", "usr", "usr/lib", "usr/lib/x", "usr/lib/y", "z"]
    assert (found[1]["usr"].mode, found[1]["usr/lib"].mode) == (0o711, 0o750)
    assert b"whiteout" in found[1]["usr/lib/x"].flags
    assert (found[1]["usr/lib/y"].layer, found[1]["usr/lib/y"].source) == (1, b"lib/y")


def test_no_changes_are_asked_for_where_an_overlay_of_the_layers_is_right():
    assert changes(LINKED, layer("top", d("usr"), d("usr/lib"), f("usr/lib/y"))) == {}
    assert changes() == {}


def test_a_layer_that_only_covers_a_symlink_changes_nothing():
    found = changes(LINKED, layer("top", implied("lib"), whiteout("lib/nothing")))
    assert list(found[1]) == ["."]


def test_hard_links_through_a_symlink_are_one_file_and_those_to_lower_layers_name_that():
    top = layer(
        "top",
        implied("lib"),
        f("lib/a", "a"),
        f("lib/b", "a", hardlink=b"lib/a"),
        lower("lib/c", "usr/lib/x"),
    )
    found = changes(LINKED, top)[1]
    assert "usr/lib/x" not in found
    assert (found["usr/lib/a"].source, found["usr/lib/b"].source) == (b"lib/a", b"lib/a")
    assert found["usr/lib/b"].hardlink == b"usr/lib/a"
    assert (found["usr/lib/c"].layer, found["usr/lib/c"].source) == (0, b"usr/lib/x")


def test_what_takes_the_place_of_another_kind_needs_no_whiteout():
    base = layer("base", d("d"), f("d/x"), f("e"), d("t"), symlink("s", "t"))
    top = layer("top", f("d", "file"), d("e"), f("e/y"), implied("s"), f("s/z"))
    found = changes(base, top)[1]
    assert {path: entry.kind for path, entry in found.items()} == {
        ".": DIR,
        "d": FILE,
        "e": DIR,
        "e/y": FILE,
        "t": DIR,
        "t/z": FILE,
    }


# --- what is generated -----------------------------------------------------


def extra(path: str, kind: bytes = FILE, **more: object) -> Generated:
    return Generated(path.encode(), kind, 0o755, **more)  # type: ignore[arg-type]


def test_generated_entries_are_added_and_flagged():
    found = merged(layer("1", f("x")), extra=[extra("d", DIR), extra("d/y", content=b"yes")])
    assert b"generated" in found["d/y"].flags
    assert (found["d/y"].size, found["d/y"].layer) == (3, None)


def test_nothing_generated_replaces_what_the_image_has_but_under_its_own_directory():
    image = layer("1", f("x", "image"), d("d"), f("d/y", "image"))
    found = merged(image, extra=[extra("x"), extra("d/y", content=b"ours", overwrite=True)])
    assert found["x"].size == len("image")
    assert b"generated" in found["d/y"].flags


@pytest.mark.parametrize(
    "blocking",
    [
        [symlink(".singularity.d", "/etc")],
        [f(".singularity.d")],
        [symlink("etc", "../../../etc")],
        [d(".singularity.d"), symlink(".singularity.d/env", "/tmp")],
    ],
)
def test_nothing_generated_is_written_through_a_link_of_the_image(blocking, tmp_path):
    config = ImageConfig.parse(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "2024-01-01T00:00:00Z",
                "rootfs": {"type": "layers", "diff_ids": [str(digest_of(b"1"))]},
            }
        ).encode()
    )
    flatten_image([layer("1", *blocking)], config, tmp_path, name="sha256:x", mount_points=["/srv"])
    found = {entry.path: entry for entry in mtree.read(tmp_path / "image" / "tree.mtree")}
    links = {path for path, entry in found.items() if entry.kind == LINK}
    for path in found:
        parents = path.split(b"/")[:-1]
        assert not any(b"/".join(parents[:n]) in links for n in range(1, len(parents) + 1))
    for path in (tmp_path / "image" / "generated").rglob("*"):
        if path.is_file():
            name = os.fsencode(path.relative_to(tmp_path / "image" / "generated"))
            assert b"generated" in found[name].flags


def generated_times(created: str) -> set[int]:
    config = ImageConfig(AMD64, (), created=created)
    with tempfile.TemporaryDirectory() as directory:
        flatten_image([], config, Path(directory), name="sha256:x", mount_points=["/srv"])
        entries = list(mtree.read(Path(directory) / "image" / "tree.mtree"))
    return {entry.mtime_ns for entry in entries if b"generated" in entry.flags}


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        ("2024-01-01T00:00:00Z", 1704067200),
        ("2024-01-01T02:00:00.123456789+02:00", 1704067200),
        ("2024-01-01T00:00:00", 1704067200),
        ("1970-01-01T00:00:01Z", 1),
        ("0001-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00+14:00", 0),
        ("1969-12-31T23:59:59Z", 0),
        ("2262-04-12T00:00:00Z", 0),
        ("9999-12-31T23:59:59-14:00", 0),
        ("yesterday", 0),
        ("", 0),
    ],
)
def test_generated_files_are_as_old_as_the_image_or_of_no_time(created, seconds, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert generated_times(created) == {seconds * 10**9}
    time.tzset()


@settings(deadline=None, max_examples=30)
@given(st.datetimes().map(datetime.isoformat) | st.text())
def test_generated_files_have_a_time_that_every_file_system_keeps(created):
    (found,) = generated_times(created)
    assert 0 <= found < 2**31 * 10**9


def test_the_result_is_the_same_each_time_and_appears_at_once(tmp_path: Path):
    config = ImageConfig.parse(
        b'{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z",'
        b'"rootfs":{"type":"layers","diff_ids":[]}}'
    )
    texts = []
    for name in ("1", "2"):
        flatten_image([layer("1", f("x"))], config, tmp_path / name, name="n", mount_points=[])
        assert {path.name for path in (tmp_path / name).iterdir()} == {"image"}
        texts.append((tmp_path / name / "image" / "tree.mtree").read_bytes())
    assert texts[0] == texts[1]


def test_no_layers_make_an_empty_tree():
    assert list(merged()) == ["."]
