"""The corpus, published, and what umoci, the kernel's overlayfs and podman make of it."""

from __future__ import annotations

import pwd
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from corpus.case import Case
from corpus.images import CASES, ROOTS_MERGE, SYMLINK_UNKNOWN
from support import oracles, pipeline, trees
from support.images import LayerBuilder
from support.oracles import (
    needs_fuse_overlayfs,
    needs_overlay,
    needs_podman,
    needs_root,
    needs_umoci,
)
from support.other_user import run_as

_NO_TIME = ("mtime_ns",)
_ATTRIBUTES = ("mode", "uid", "gid", "mtime_ns")


def _compare(
    case: Case, oracle: str, found: Path, published: pipeline.Published | None = None
) -> list[str]:
    """``published``: an overlay of its layers need not show what the record says."""
    # Times of directories that no layer mentions are nobody's promise.  podman has no
    # times of directories at all, and a root of its own (0555 where no layer says more).
    passed_over = {
        path: ("mtime_ns",)
        for path, node in case.tree.items()
        if node.kind == "dir" and (oracle == "podman" or node.mtime_ns == 0)
    }
    if oracle == "podman":
        passed_over[b"."] = _ATTRIBUTES
    tree, shown = case.tree, trees.snapshot(found)
    if published is not None:
        tree, shown = (pipeline.shown_by_layers(published, each) for each in (tree, shown))
    return trees.differences(tree, shown, ignore_on=passed_over)


def _hold(case: Case, oracle: str, differences: list[str]) -> None:
    if oracle in case.differs:
        assert differences, f"{oracle} agrees by now: {case.differs[oracle]!r} is out of date"
    else:
        assert differences == []


@needs_root
@pytest.mark.parametrize("case", CASES, ids=str)
def test_published_flat_tree_is_what_the_image_says(case, tmp_path):
    published = pipeline.publish(case.layers, tmp_path)
    assert trees.differences(case.tree, trees.snapshot(published.flat)) == []
    assert list(published.problems) == []


@needs_overlay
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_overlay_of_published_layers_is_the_image_but_for_what_the_record_says(
    case, tmp_path
):
    published = pipeline.publish(case.layers, tmp_path)
    try:
        with oracles.overlay(published.layers, tmp_path) as merged:
            found = _compare(case, "overlay", merged, published)
    except OSError as error:
        found = [str(error)]
    _hold(case, "overlay", found)
    noted = {"covered", "whiteouts"} & published.losses.keys()
    assert bool(noted) == (case.differs.get("overlay") in (ROOTS_MERGE, SYMLINK_UNKNOWN))


@needs_overlay
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_overlay_of_podmans_store_is_the_image(case, tmp_path):
    """Also where that of the published layers is not: a layer there belongs to its chain."""
    published = pipeline.publish(case.layers, tmp_path, ("layers", "flat", "podman"))
    with oracles.overlay(published.store, tmp_path) as merged:
        _hold(case, "store", _compare(case, "store", merged))
    assert list(published.problems) == []


@needs_umoci
@pytest.mark.parametrize("case", CASES, ids=str)
def test_umoci_agrees(case, tmp_path):
    try:
        found = _compare(case, "umoci", oracles.umoci(case.layers, tmp_path / "umoci"))
    except ValueError as error:
        found = [str(error)]
    _hold(case, "umoci", found)


@needs_overlay
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_by_layer_extraction_onto_overlays_agrees(case, tmp_path):
    try:
        with oracles.extracted(case.layers, tmp_path) as merged:
            found = _compare(case, "extracted", merged)
    except ValueError as error:
        found = [str(error)]
    _hold(case, "extracted", found)


@needs_podman
@pytest.mark.parametrize("case", CASES, ids=str)
def test_podman_agrees(case, tmp_path):
    try:
        with oracles.podman(case.layers, tmp_path / "podman", "vfs") as merged:
            found = _compare(case, "podman", merged)
    except ValueError as error:
        found = [str(error)]
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)
    _hold(case, "podman", found)


_BY_FUSE = [
    case
    for case in CASES
    if not {"overlay"} & case.differs.keys() and case.name != "deep-and-long-paths"
]


@needs_fuse_overlayfs
@pytest.mark.parametrize("case", _BY_FUSE, ids=str)
def test_fuse_overlayfs_of_published_layers_is_the_image_but_for_what_the_record_says(
    case, tmp_path
):
    published = pipeline.publish(case.layers, tmp_path)
    with oracles.fuse_overlay(published.layers, tmp_path) as merged:
        found = _compare(case, "fuse", merged, published)
    _hold(case, "fuse", found)


_READABLE = [
    case
    for case in _BY_FUSE
    if all(node.kind != "file" or node.mode & stat.S_IRUSR for node in case.tree.values())
]


@needs_fuse_overlayfs
def test_without_root_fuse_overlayfs_of_published_layers_is_the_flat_tree_but_for_that_too():
    """Owners and devices are lost then; what was removed stays removed all the same."""
    oracles.let_everybody_use_fuse()
    # fusermount3 wants a user that has a name.
    found = run_as(pwd.getpwnam("nobody").pw_uid, _differences_by_fuse)
    assert len(found) == len(_READABLE) > 60
    assert {name: lines for name, lines in found.items() if lines} == {}


def _differences_by_fuse() -> dict[str, list[str]]:
    found = {}
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="fuse") as directory:
        for number, case in enumerate(_READABLE):
            base = Path(directory) / str(number)
            published = pipeline.publish(case.layers, base)
            with oracles.fuse_overlay(published.layers, base) as merged:
                flat, shown = (
                    pipeline.shown_by_layers(published, trees.snapshot(tree))
                    for tree in (published.flat, merged)
                )
                found[case.name] = trees.differences(flat, shown)
    return found


@needs_umoci
@needs_overlay
def test_an_image_of_150_layers(tmp_path):
    layers = [LayerBuilder().dir("d").file("d/x", "0").file("a0").layer("none")]
    for number in range(1, 150):
        builder = LayerBuilder().file("d/x", str(number)).file(f"a{number}", str(number))
        if number % 3 == 0:
            builder.whiteout(f"a{number - 1}")
        layers.append(builder.layer("none"))
    published = pipeline.publish(layers, tmp_path)
    flat = trees.snapshot(published.flat)
    umoci = trees.snapshot(oracles.umoci(layers, tmp_path / "umoci"))
    unmentioned = {b".": _NO_TIME}
    assert trees.differences(umoci, flat, ignore_on=unmentioned) == []
    assert len(flat) == 3 + 150 - 49
    with oracles.overlay(published.layers, tmp_path) as merged:
        # Of the layers above the first none mentions this directory.
        implied = {b"d": _NO_TIME}
        assert trees.differences(flat, trees.snapshot(merged), ignore_on=implied) == []
