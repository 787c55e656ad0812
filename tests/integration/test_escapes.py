"""Hostile layers, unpacked and published as root beside a canary that must not change."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from corpus.hostile import ESCAPES
from duccmake.errors import DuccmakeError, LayerError
from duccmake.layer.unpack import unpack_layer
from support import oracles, pipeline, trees
from support.images import LayerBuilder
from support.oracles import needs_overlay, needs_root


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A directory that a layer might reach, with something of every kind in it."""
    base = tmp_path / "canary"
    (base / "directory").mkdir(parents=True)
    (base / "directory" / "inner").write_text("inner")
    (base / "secret").write_text("secret")
    (base / "link").symlink_to("secret")
    os.mkfifo(base / "fifo")
    (base / "secret").chmod(0o600)
    (base / "directory").chmod(0o711)
    for path in (base / "secret", base / "directory" / "inner", base / "directory", base):
        os.utime(path, ns=(10**18, 10**18))
    return base


def _everything_else(tmp_path: Path) -> dict[bytes, trees.Node]:
    found = trees.snapshot(tmp_path)
    ours = (b"ours/", b"ours")
    return {
        path: node for path, node in found.items() if not path.startswith(ours) and path != b"."
    }


@needs_root
@pytest.mark.parametrize("escape", ESCAPES, ids=str)
def test_nothing_outside_is_touched(escape, canary, tmp_path):
    sibling = tmp_path / "ours-evil"
    sibling.mkdir()
    (sibling / "x").write_text("x")
    before = _everything_else(tmp_path) | {
        b"sibling/" + path: node for path, node in trees.snapshot(sibling).items()
    }
    try:
        published = pipeline.publish(escape.layers(str(canary)), tmp_path / "ours")
    except LayerError:
        assert escape.inside is None, "good input was refused"
        assert not list((tmp_path / "ours").rglob("layer.partial"))
    else:
        assert escape.inside is not None, "was not refused"
        for path in escape.inside:
            inside = published.flat / path.format(out=str(canary).lstrip("/"))
            assert os.path.lexists(inside)
            assert inside.parent.resolve().is_relative_to(published.flat)
        assert list(published.problems) == []
    after = _everything_else(tmp_path) | {
        b"sibling/" + path: node for path, node in trees.snapshot(sibling).items()
    }
    assert trees.differences(before, after) == []


@needs_overlay
@pytest.mark.parametrize("escape", [e for e in ESCAPES if e.inside is not None], ids=str)
def test_kernel_confined_to_the_tree_agrees_or_refuses(escape, canary, tmp_path):
    """What stays inside is where chroot(2) would have it."""
    layers = escape.layers(str(canary))
    published = pipeline.publish(layers, tmp_path / "ours")
    ours = trees.snapshot(published.flat)
    try:
        with oracles.extracted(layers, tmp_path / "extracted") as merged:
            wanted = trees.snapshot(merged)
    except ValueError:
        return
    directories = {path: ("mtime_ns", "mode") for path, n in wanted.items() if n.kind == "dir"}
    assert trees.differences(wanted, ours, ignore=("group",), ignore_on=directories) == []


@needs_root
def test_a_directory_swapped_for_a_symlink_meanwhile_leads_nowhere(canary, tmp_path):
    """CVE-2018-15664, CVE-2025-47290: another process changes the tree between two steps."""
    builder = LayerBuilder()
    for number in range(3000):
        builder.dir(f"d{number}", mode=0o777).file(f"d{number}/secret", "overwritten", mode=0o777)
        builder.whiteout(f"d{number}/inner")
    layer = builder.layer("none")
    base = tmp_path / "ours"
    base.mkdir()
    (base / "blob").write_bytes(layer.blob)
    before = trees.snapshot(canary)
    done = threading.Event()
    swapped = []

    def swap() -> None:
        staged = base / "layer.partial" / "layerfs"
        while not done.is_set():
            try:
                names = sorted(
                    (path.name for path in staged.iterdir()),
                    key=lambda name: -int(name[1:].partition("-")[0]),
                )
            except (OSError, ValueError):
                continue
            for name in names[:3]:
                try:
                    (staged / name).rename(tmp_path / f"moved-{len(swapped)}")
                    (staged / name).symlink_to(canary)
                    swapped.append(name)
                except OSError:
                    continue

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        unpack_layer(base / "blob", base, digest=layer.digest)
    except DuccmakeError:
        assert not (base / "layer").exists()
    finally:
        done.set()
        thread.join()
    assert swapped
    assert trees.differences(before, trees.snapshot(canary)) == []


@needs_root
def test_what_remains_of_an_earlier_run_is_removed_without_following_links(canary, tmp_path):
    base = tmp_path / "ours"
    staged = base / "layer.partial" / "layerfs"
    staged.mkdir(parents=True)
    (staged / "out").symlink_to(canary)
    before = trees.snapshot(canary)
    pipeline.unpack(LayerBuilder().file("out/secret", "x").layer(), base)
    assert (base / "layer" / "layerfs" / "out").is_dir()
    shutil.rmtree(base / "layer")
    (base / "layer.partial").symlink_to(canary)
    pipeline.unpack(LayerBuilder().file("out/secret", "x").layer(), base)
    assert trees.differences(before, trees.snapshot(canary)) == []
