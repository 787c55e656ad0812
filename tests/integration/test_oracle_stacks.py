"""Generated stacks of layers: flatten, and the published layers, against other implementations.

``DUCCMAKE_EXAMPLES`` sets how many; 60 where it is unset.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, assume, event, given, settings

from corpus.stacks import ANY, LINKED, PLAIN, Change, layer_of
from duccmake.errors import LayerError
from support import oracles, pipeline, trees
from support.images import Layer
from support.oracles import needs_overlay, needs_umoci
from support.trees import Tree

_EXAMPLES = int(os.environ.get("DUCCMAKE_EXAMPLES", "60"))
_SETTINGS = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize="DUCCMAKE_EXAMPLES" not in os.environ,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def _ours(layers: Sequence[Layer], base: Path) -> Tree | None:
    try:
        return trees.snapshot(pipeline.publish(layers, base / "ours").flat)
    except LayerError:
        return None


def _umoci(layers: Sequence[Layer], base: Path) -> Tree | None:
    try:
        return trees.snapshot(oracles.umoci(layers, base / "umoci"))
    except ValueError:
        return None


def _extracted(layers: Sequence[Layer], base: Path) -> Tree | None:
    try:
        with oracles.extracted(layers, base / "extracted") as merged:
            return trees.snapshot(merged)
    except ValueError:
        return None


def _differences(wanted: Tree, ours: Tree, *, groups: bool) -> list[str]:
    # Directories' times: umoci's change with each whiteout.  Those that no layer mentions
    # (ours have the time zero) inherit setgid with the others, by way of mkdir(2).
    # Groups: overlayfs breaks them when it copies up.
    passed_over = {
        path: ("mtime_ns",) if node.mtime_ns else ("mtime_ns", "mode", "gid")
        for path, node in ours.items()
        if node.kind == "dir"
    }
    ignore = () if groups else ("group",)
    return trees.differences(wanted, ours, ignore=ignore, ignore_on=passed_over)


def _without_empty_parents(overlay: Tree, flat: Tree) -> Tree:
    """A layer has directories for its whiteouts, also where no lower layer has that directory."""
    found = dict(overlay)
    for path in sorted(found, reverse=True):
        node = found[path]
        empty = not any(other.startswith(path + b"/") for other in found)
        if path not in flat and empty and (node.kind, node.mtime_ns) == ("dir", 0):
            del found[path]
    return found


def _check_against_others(stack: list[list[Change]]) -> None:
    """Where the two disagree, one of them has to be right."""
    layers = [layer_of(changes) for changes in stack]
    with tempfile.TemporaryDirectory(prefix="stack") as directory:
        base = Path(directory)
        umoci, extracted = _umoci(layers, base), _extracted(layers, base)
        assume(umoci is not None or extracted is not None)
        ours = _ours(layers, base)
    if ours is None:
        assert umoci is None or extracted is None, "refused what both others accept"
        event("refused by us and one other")
        return
    found = {}
    if umoci is not None:
        found["umoci"] = _differences(umoci, ours, groups=True)
    if extracted is not None:
        found["extracted"] = _differences(extracted, ours, groups=False)
    event(f"agrees with {sum(not lines for lines in found.values())} of {len(found)}")
    assert any(not lines for lines in found.values()), found


@needs_umoci
@needs_overlay
@_SETTINGS
@given(ANY)
def test_flat_tree_is_what_umoci_and_an_overlay_of_extractions_make(stack: list[list[Change]]):
    _check_against_others(stack)


@needs_umoci
@needs_overlay
@_SETTINGS
@given(PLAIN)
def test_names_that_come_twice_in_a_layer_end_as_with_the_others(stack: list[list[Change]]):
    _check_against_others(stack)


@needs_umoci
@_SETTINGS
@given(LINKED)
def test_hard_links_by_way_of_symlinks_and_of_links_are_umocis(stack: list[list[Change]]):
    layers = [layer_of(changes) for changes in stack]
    with tempfile.TemporaryDirectory(prefix="stack") as directory:
        base = Path(directory)
        wanted = trees.snapshot(oracles.umoci(layers, base / "umoci"))
        ours = trees.snapshot(pipeline.publish(layers, base / "ours").flat)
    assert _differences(wanted, ours, groups=True) == []


@dataclass(frozen=True)
class _Views:
    """A flat tree, what the kernel makes of the layers and of podman's store, and the losses.

    ``by_layers`` is the flat tree without what the record says that the layers lack.
    """

    flat: Tree
    by_layers: Tree
    layers: Tree
    store: Tree
    losses: Mapping[str, int]


def _views(stack: list[list[Change]]) -> _Views:
    layers = [layer_of(changes) for changes in stack]
    assume(len({layer.digest for layer in layers}) == len(layers))
    with tempfile.TemporaryDirectory(prefix="stack") as directory:
        base = Path(directory)
        try:
            published = pipeline.publish(layers, base / "ours", ("layers", "flat", "podman"))
        except LayerError:
            assume(False)
        flat = trees.snapshot(published.flat)
        with oracles.overlay(published.layers, base) as merged:
            layers = _without_empty_parents(trees.snapshot(merged), flat)
        with oracles.overlay(published.store, base) as merged:
            store = trees.snapshot(merged)
        by_layers, layers = (pipeline.shown_by_layers(published, tree) for tree in (flat, layers))
    assert list(published.problems) == []
    return _Views(flat, by_layers, layers, store, published.losses)


@needs_overlay
@_SETTINGS
@given(PLAIN)
def test_kernel_overlay_of_published_layers_is_the_flat_tree_but_for_what_the_record_says(
    stack: list[list[Change]],
):
    views = _views(stack)
    assert trees.differences(views.by_layers, views.layers) == []


@needs_overlay
@_SETTINGS
@given(ANY | LINKED)
def test_kernel_overlay_shows_another_tree_only_where_the_record_says_so_and_podmans_store_never(
    stack: list[list[Change]],
):
    views = _views(stack)
    noted = bool({"covered", "whiteouts"} & views.losses.keys())
    event("noted" if noted else "the same")
    assert noted or trees.differences(views.by_layers, views.layers) == []
    # Trees of the store's own take nothing but files from other layers: the rest is made anew.
    passed_over = {
        path: ("group",) for path, node in views.flat.items() if node.kind not in ("file", "dir")
    }
    assert trees.differences(views.flat, views.store, ignore_on=passed_over) == []
