"""Stacks of layers out of all kinds of changes, for Hypothesis."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePosixPath

from hypothesis import strategies as st

from duccmake.demo.images import MTIME
from support.images import Layer, LayerBuilder

_NAMES = ["a", "b", "c", "d", "e\n\\", "f\udcff", "a.", "-x", "#y"]
_DIRECTORIES = ["p", "q", "r s"]
_MODES = [0o644, 0o755, 0o600, 0o4711, 0o2750, 0o1777, 0]


@dataclass(frozen=True, slots=True)
class Change:
    """One member of a layer, ``value`` is the content, the target or nothing."""

    kind: str
    path: str
    value: str = ""
    mode: int = 0o644
    uid: int = 0


def _paths(names: list[str], *, depth: int = 3) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(names), min_size=1, max_size=depth).map("/".join)


def _attributes() -> dict[str, st.SearchStrategy[int]]:
    return {"mode": st.sampled_from(_MODES), "uid": st.sampled_from([0, 5, 70000])}


def _changes(
    leaves: st.SearchStrategy[str], directories: st.SearchStrategy[str], *, links: bool
) -> st.SearchStrategy[Change]:
    contents = st.sampled_from(["", "1", "two", "x" * 700])
    paths = st.one_of(leaves, directories)
    choices = [
        st.builds(Change, st.just("file"), leaves, contents, **_attributes()),
        st.builds(Change, st.just("file"), leaves, contents, **_attributes()),
        st.builds(Change, st.just("dir"), directories, **_attributes()),
        st.builds(Change, st.just("dir"), directories, **_attributes()),
        st.builds(Change, st.just("hardlink"), leaves, leaves),
        st.builds(Change, st.just("fifo"), leaves, **_attributes()),
        st.builds(Change, st.just("whiteout"), paths),
        st.builds(Change, st.just("opaque"), directories),
    ]
    if links:
        targets = st.one_of(paths, paths.map("/{}".format), paths.map("../{}".format))
        choices += [st.builds(Change, st.just("symlink"), leaves, targets)] * 2
    return st.one_of(choices)


def _orderly(changes: list[Change]) -> list[Change]:
    """Without hard links to what the layer makes or replaces only later.

    Whether such a link means the lower layer's file or this one's is where readers
    of a stream and we, who look at the whole layer, differ on purpose: see
    "hard-link-before-its-target" and its kin in `images`.
    """
    return [
        change
        for number, change in enumerate(changes)
        if change.kind != "hardlink"
        or not any(
            _is_below(other.path, change.value) or _is_below(change.value, other.path)
            for other in changes[number + 1 :]
        )
    ]


def _settled(changes: list[Change], links: dict[str, set[str]]) -> list[Change]:
    """Orderly, and nothing goes through a name that the layer itself replaces later.

    A layer is unpacked without those below it: that the name led elsewhere at
    first, through a lower layer's symlink, is not seen.  So no name comes twice,
    nor after a symlink that leads to it.  ``links`` has where symlinks lead.
    """
    kept: list[Change] = []
    taken: set[str] = set()
    for change in changes:
        hides = change.kind in ("whiteout", "opaque")
        if not hides and any(_is_below(path, change.path) for path in taken):
            continue
        kept.append(change)
        if change.kind == "symlink":
            relative = PurePosixPath(change.path).parent / change.value
            targets = {os.path.normpath(f"/{path}")[1:] for path in (relative, change.value)}
            links.setdefault(change.path, set()).update(targets)
            taken |= targets
        if not hides:
            taken |= _leads_to(change.path, links)
    return _orderly(kept)


def _leads_to(path: str, links: dict[str, set[str]]) -> set[str]:
    """The path, and roughly everything that symlinks in it may lead to."""
    found = {path}
    pending = [path]
    while pending:
        here = pending.pop()
        for link in (link for link in links if _is_below(here, link)):
            pending += [target for target in links[link] if target not in found]
            found |= links[link]
    return found


def _settled_stack(stack: list[list[Change]]) -> list[list[Change]]:
    links: dict[str, set[str]] = {}
    return [_settled(changes, links) for changes in stack]


def _is_below(path: str, directory: str) -> bool:
    return (path + "/").startswith(directory + "/")


def layer_of(changes: list[Change]) -> Layer:
    """The layer that these changes are."""
    builder = LayerBuilder()
    for number, change in enumerate(changes):
        path = change.path
        attributes = {"mode": change.mode, "uid": change.uid, "mtime": MTIME + number}
        if change.kind == "file":
            builder.file(path, change.value, **attributes)  # type: ignore[arg-type]
        elif change.kind == "dir":
            builder.dir(path, **attributes)  # type: ignore[arg-type]
        elif change.kind == "fifo":
            builder.fifo(path, **attributes)  # type: ignore[arg-type]
        elif change.kind == "symlink":
            builder.symlink(path, change.value, mtime=MTIME + number)
        elif change.kind == "hardlink":
            builder.hardlink(path, change.value)
        elif change.kind == "whiteout":
            builder.whiteout(path)
        else:
            builder.opaque(path)
    return builder.layer("none")


def _stacks(changes: st.SearchStrategy[Change]) -> st.SearchStrategy[list[list[Change]]]:
    return st.lists(st.lists(changes, min_size=1, max_size=7), min_size=1, max_size=4)


ANY = _stacks(
    _changes(
        _paths(_NAMES[:4] + _DIRECTORIES[:1]) | _paths(_NAMES),
        _paths(_NAMES[:4] + _DIRECTORIES[:1]) | _paths(_NAMES),
        links=True,
    ),
).map(_settled_stack)
"""Any name may be anything, and paths may lead through symlinks."""

_TREE = st.builds(
    lambda parents, name: "/".join([*parents, name]),
    st.lists(st.sampled_from(_DIRECTORIES), max_size=2),
    st.sampled_from(_NAMES),
)
PLAIN = _stacks(_changes(_TREE, _paths(_DIRECTORIES), links=False)).map(
    lambda stack: [_orderly(changes) for changes in stack]
)
"""Directories have names of their own, so that no path leads through anything else."""


# --- hard links by way of symlinks and of other links --------------------------

_ALIASES = {"p": ["p", "l"], "q": ["q", "p/up"], "": [""]}
"""Directories of the lowest layer, and symlinks of it that lead there."""

_LOWEST = [
    Change("dir", "p", mode=0o750),
    Change("dir", "q", mode=0o711),
    Change("symlink", "l", "p"),
    Change("symlink", "p/up", "../q"),
    *(Change("file", path, f"lowest {path}") for path in ("a", "p/a", "p/b", "q/a")),
]


@st.composite
def _linked_layer(draw: st.DrawFn, there: set[str]) -> list[Change]:
    """A layer over one that has the files ``there``, by their real paths; adds its own.

    No name comes twice, nor after a link to it: where the same name means two files in a
    layer, readers of a stream and we, who look at the whole layer, differ on purpose.
    """
    aliases = dict(_ALIASES)
    changes = [Change("file", f"layer {draw(st.integers(0, 999))}")]
    if draw(st.booleans()):
        own = draw(st.sampled_from(["p", "q"]))
        changes.append(Change("symlink", "own", own))
        aliases[own] = [*aliases[own], "own"]
    taken: set[str] = set()
    for _ in range(draw(st.integers(1, 6))):
        real, path = _spelled(draw, aliases, draw(st.sampled_from(["a", "b", "c"])))
        if real in taken:
            continue
        if draw(st.booleans()) and there - {real}:
            source = draw(st.sampled_from(sorted(there - {real})))
            parent, _, name = source.rpartition("/")
            spelled = "/".join(filter(None, [draw(st.sampled_from(aliases[parent])), name]))
            changes.append(Change("hardlink", path, spelled))
            taken.add(source)
        else:
            changes.append(Change("file", path, f"{path} {len(changes)}"))
        taken.add(real)
        there.add(real)
    return changes


def _spelled(draw: st.DrawFn, aliases: dict[str, list[str]], name: str) -> tuple[str, str]:
    """A path that leads to no symlink, and one of its spellings."""
    parent = draw(st.sampled_from(sorted(aliases)))
    alias = draw(st.sampled_from(aliases[parent]))
    return "/".join(filter(None, [parent, name])), "/".join(filter(None, [alias, name]))


@st.composite
def _linked(draw: st.DrawFn) -> list[list[Change]]:
    there = {change.path for change in _LOWEST if change.kind == "file"}
    return [_LOWEST, *(draw(_linked_layer(there)) for _ in range(draw(st.integers(1, 3))))]


LINKED = _linked()
"""Hard links to lower files, to links, and to what a layer has, through symlinks or not."""
