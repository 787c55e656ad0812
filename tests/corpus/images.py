"""Stacks of layers and the trees that they are (image-spec, layer.md)."""

from __future__ import annotations

from duccmake.demo.images import MTIME
from support.images import Layer, LayerBuilder

from .case import (
    MTIME_NS,
    Case,
    block,
    case,
    char,
    directory,
    fifo,
    file,
    implied,
    link,
    linked,
)

_LINK_BEFORE_TARGET = "wants a hard link's target before the link"
_SEQUENTIAL = "links what is there at that moment, which the layer then replaces"
_MAKES_PARENTS = "makes the directories that a whiteout stands in"
_DEVICE_OF_WHITEOUTS = "overlayfs takes any device 0:0 for a whiteout"
_PUBLISHES_PARENTS = "a layer is published with the directories of its whiteouts, lower ones or not"
SYMLINK_UNKNOWN = (
    "a layer is published as it is, without knowing that a lower one has a symlink there: "
    "its directory covers that"
)

ROOTS_MERGE = "the kernel merges the roots of all layers, marked as opaque or not"


def _layer() -> LayerBuilder:
    return LayerBuilder()


def _merging() -> list[Case]:
    return [
        case(
            "directory-over-directory-replaces-attributes-and-keeps-contents",
            _layer().dir("d", mode=0o700, uid=5, gid=6).file("d/x", "x"),
            _layer().dir("d", mode=0o2775, mtime=MTIME + 9),
            tree={
                "d": directory(0o2775, mtime_ns=MTIME_NS + 9_000_000_000),
                "d/x": file("x"),
            },
        ),
        case(
            "file-over-directory-removes-the-subtree",
            _layer().dir("d").dir("d/e").file("d/e/f", "f"),
            _layer().file("d", "now a file"),
            tree={"d": file("now a file")},
        ),
        case(
            "directory-over-file",
            _layer().file("d", "a file"),
            _layer().dir("d").file("d/x", "x"),
            tree={"d": directory(), "d/x": file("x")},
        ),
        case(
            "symlink-over-directory-removes-the-subtree",
            _layer().dir("d").file("d/x", "x").dir("e").file("e/y", "y"),
            _layer().symlink("d", "e"),
            tree={"d": link("e"), "e": directory(), "e/y": file("y")},
        ),
        case(
            "directory-over-symlink-replaces-the-link-and-not-what-it-leads-to",
            _layer().dir("e").file("e/y", "y").symlink("d", "e"),
            _layer().dir("d").file("d/x", "x"),
            tree={"d": directory(), "d/x": file("x"), "e": directory(), "e/y": file("y")},
        ),
        case(
            "fifo-over-directory-and-directory-over-fifo",
            _layer().dir("a").file("a/x").fifo("b"),
            _layer().fifo("a").dir("b"),
            tree={"a": fifo(), "b": directory()},
        ),
        case(
            "shorter-file-over-longer-leaves-no-tail",
            _layer().file("x", "long content"),
            _layer().file("x", "short"),
            tree={"x": file("short")},
        ),
        case(
            "same-path-twice-in-a-layer-the-last-one-counts",
            _layer().file("x", "the first and longer").file("x", "last", mode=0o600),
            tree={"x": file("last", 0o600)},
            podman="refuses a path that comes twice in a layer",
        ),
        case(
            "same-path-twice-directory-then-file-then-directory",
            _layer().dir("x").file("x/lower", "l"),
            _layer().dir("x").file("x/a", "a").file("x", "f").dir("x").file("x/b", "b"),
            tree={"x": directory(), "x/b": file("b")},
            podman="refuses a path that comes twice in a layer",
        ),
        case(
            "root-entry-has-its-mode-owner-and-time",
            _layer().dir("./", mode=0o750, uid=7, gid=8, mtime=MTIME + 1).file("x"),
            _layer().file("y"),
            tree={
                ".": directory(0o750, uid=7, gid=8, mtime_ns=MTIME_NS + 1_000_000_000),
                "x": file(),
                "y": file(),
            },
        ),
        case(
            "names-with-dots-slashes-and-slashes-at-both-ends",
            _layer()
            .dir("./a/")
            .file("./a/b", "1")
            .file("/c", "2")
            .file("a/./d", "3")
            .file("a//e", "4")
            .file(".//.//f", "5"),
            tree={
                "a": directory(),
                "a/b": file("1"),
                "c": file("2"),
                "a/d": file("3"),
                "a/e": file("4"),
                "f": file("5"),
            },
        ),
        case("no-members", _layer(), tree={}),
        case(
            "zero-bytes-and-zero-blocks",
            _layer().file("x", "x"),
            Layer(b"", "none"),
            Layer(bytes(1024), "none"),
            tree={"x": file("x")},
        ),
        case(
            "a-layer-that-occurs-twice",
            _layer().file("x", "1").dir("d"),
            _layer().whiteout("x").file("y", "2"),
            _layer().file("x", "1").dir("d"),
            tree={"x": file("1"), "y": file("2"), "d": directory()},
            overlay="the same directory twice among the lower ones: the kernel refuses it (ELOOP)",
        ),
    ]


def _whiteouts() -> list[Case]:
    return [
        case(
            "whiteout-hides-a-lower-file",
            _layer().dir("d").file("d/x").file("d/y"),
            _layer().whiteout("d/x"),
            tree={"d": directory(), "d/y": file()},
        ),
        case(
            "whiteout-hides-a-lower-directory-with-all-below",
            _layer().dir("d").dir("d/e").file("d/e/f"),
            _layer().whiteout("d"),
            tree={},
        ),
        case(
            "whiteout-before-the-same-layers-own-file",
            _layer().file("x", "lower"),
            _layer().whiteout("x").file("x", "own"),
            tree={"x": file("own")},
        ),
        case(
            "whiteout-after-the-same-layers-own-file",
            _layer().file("x", "lower"),
            _layer().file("x", "own").whiteout("x"),
            tree={"x": file("own")},
            podman="applies whiteouts where they stand, to its own layer's files as well",
        ),
        case(
            "whiteout-and-own-directory-of-that-name",
            _layer().dir("d").file("d/x"),
            _layer().whiteout("d").dir("d", mode=0o700).file("d/y"),
            tree={"d": directory(0o700), "d/y": file()},
        ),
        case(
            "whiteout-after-own-directory-of-that-name",
            _layer().dir("d").file("d/x"),
            _layer().dir("d", mode=0o700).file("d/y").whiteout("d"),
            tree={"d": directory(0o700), "d/y": file()},
            umoci="removes the lower content when the whiteout comes, and the time is then now",
            podman="applies whiteouts where they stand, to its own layer's files as well",
        ),
        case(
            "whiteout-of-a-directory-that-the-layer-only-passes-through",
            _layer().dir("d", mode=0o700, uid=5).file("d/x"),
            _layer().whiteout("d").file("d/y"),
            tree={"d": implied(), "d/y": file()},
        ),
        case(
            "whiteouts-of-a-directory-and-of-what-is-in-it",
            _layer().dir("d").dir("d/e").file("d/e/x").file("d/y"),
            _layer().whiteout("d").whiteout("d/y").whiteout("d/e/x").opaque("d/e"),
            tree={},
            podman=_MAKES_PARENTS,
        ),
        case(
            "whiteout-of-a-symlink-to-a-directory-that-the-layer-makes-again",
            _layer().dir("usr").dir("usr/lib").file("usr/lib/x").symlink("lib", "usr/lib"),
            _layer().whiteout("lib").file("lib/y"),
            tree={
                "usr": directory(),
                "usr/lib": directory(),
                "usr/lib/x": file(),
                "lib": implied(),
                "lib/y": file(),
            },
        ),
        case(
            "opaque-hides-lower-children-and-no-own-ones",
            _layer().dir("d").file("d/x").dir("d/e").file("d/e/f").file("d/z", "lower"),
            _layer().dir("d").file("d/y").opaque("d").file("d/z", "own"),
            tree={"d": directory(), "d/y": file(), "d/z": file("own")},
        ),
        case(
            "opaque-of-the-root",
            _layer().file("x").dir("d").file("d/y"),
            _layer().file(".wh..wh..opq").file("z"),
            tree={"z": file()},
            overlay=ROOTS_MERGE,
        ),
        case(
            "opaque-of-a-directory-that-the-layer-does-not-mention",
            _layer().dir("d", mode=0o711, uid=3).file("d/x"),
            _layer().opaque("d").file("d/y"),
            tree={"d": directory(0o711, uid=3), "d/y": file()},
        ),
        case(
            "opaque-in-the-middle-and-additions-above",
            _layer().dir("d").file("d/a"),
            _layer().dir("d").opaque("d").file("d/b"),
            _layer().dir("d").file("d/c"),
            tree={"d": directory(), "d/b": file(), "d/c": file()},
        ),
        case(
            "whiteout-of-what-no-lower-layer-has",
            _layer().file("x"),
            _layer().whiteout("y").whiteout("d/z"),
            tree={"x": file()},
            overlay=_PUBLISHES_PARENTS,
            podman=_MAKES_PARENTS,
        ),
        case(
            "whiteout-then-a-file-again-in-a-later-layer",
            _layer().file("x", "1"),
            _layer().whiteout("x"),
            _layer().file("x", "3"),
            tree={"x": file("3")},
        ),
        case(
            "whiteout-below-a-lower-symlink",
            _layer().dir("usr").dir("usr/lib").file("usr/lib/x").symlink("lib", "usr/lib"),
            _layer().whiteout("lib/x"),
            tree={"usr": directory(), "usr/lib": directory(), "lib": link("usr/lib")},
            overlay=SYMLINK_UNKNOWN,
        ),
        case(
            "opaque-below-a-lower-symlink",
            _layer().dir("usr").dir("usr/lib").file("usr/lib/x").symlink("lib", "usr/lib"),
            _layer().opaque("lib").file("lib/y"),
            tree={
                "usr": directory(),
                "usr/lib": directory(),
                "usr/lib/y": file(),
                "lib": link("usr/lib"),
            },
            overlay=SYMLINK_UNKNOWN,
            podman="does not follow the link for an opaque whiteout",
        ),
        case(
            "whiteout-below-a-lower-symlink-that-leads-nowhere",
            _layer().symlink("lib", "x"),
            _layer().whiteout("lib/y").file("x", "x"),
            tree={"lib": link("x"), "x": file("x")},
            overlay=SYMLINK_UNKNOWN,
        ),
        case(
            "whiteout-below-a-lower-file",
            _layer().file("d", "a file"),
            _layer().whiteout("d/x"),
            tree={"d": file("a file")},
            overlay=SYMLINK_UNKNOWN,
            podman="refuses it",
        ),
        case(
            "whiteout-below-a-file-of-the-same-layer",
            _layer().dir("d").file("d/x"),
            _layer().file("d", "a file").whiteout("d/x"),
            tree={"d": file("a file")},
            podman="refuses it",
        ),
        case(
            "aufs-own-files-are-no-whiteouts",
            _layer().file(".wh.plnk", "").file("x").file("plnk"),
            _layer().file(".wh..wh.plnk").file(".wh..wh.aufs").dir(".wh..wh.orph").file("y"),
            tree={"x": file(), "y": file(), "plnk": file()},
        ),
    ]


def _parents() -> list[Case]:
    return [
        case(
            "parents-that-a-layer-does-not-mention-keep-their-attributes",
            _layer().dir("a", mode=0o1770, uid=9, gid=70000).dir("a/b", mode=0o711, mtime=12),
            _layer().file("a/b/x"),
            tree={
                "a": directory(0o1770, uid=9, gid=70000),
                "a/b": directory(0o711, mtime_ns=12_000_000_000),
                "a/b/x": file(),
            },
        ),
        case(
            "parents-that-no-layer-mentions",
            _layer().file("a/b/x"),
            tree={"a": implied(), "a/b": implied(), "a/b/x": file()},
        ),
        case(
            "a-lower-symlink-in-the-way-stays-and-is-followed",
            _layer().dir("usr").dir("usr/lib").symlink("lib", "usr/lib"),
            _layer().file("lib/x", "x"),
            tree={
                "usr": directory(),
                "usr/lib": directory(),
                "usr/lib/x": file("x"),
                "lib": link("usr/lib"),
            },
            overlay=SYMLINK_UNKNOWN,
        ),
        case(
            "a-lower-absolute-symlink-leads-inside-the-root",
            _layer().dir("usr").dir("usr/lib").symlink("lib", "/usr/lib"),
            _layer().file("lib/x", "x"),
            tree={
                "usr": directory(),
                "usr/lib": directory(),
                "usr/lib/x": file("x"),
                "lib": link("/usr/lib"),
            },
            overlay=SYMLINK_UNKNOWN,
        ),
        case(
            "a-lower-symlink-with-dots-stops-at-the-root",
            _layer().dir("d").dir("e").symlink("d/l", "../../../../e"),
            _layer().file("d/l/x", "x"),
            tree={
                "d": directory(),
                "d/l": link("../../../../e"),
                "e": directory(),
                "e/x": file("x"),
            },
            overlay=SYMLINK_UNKNOWN,
        ),
        case(
            "several-symlinks-one-behind-the-other",
            _layer()
            .dir("a")
            .dir("a/real")
            .symlink("a/one", "real")
            .symlink("two", "a/one")
            .symlink("three", "/two/."),
            _layer().file("three/x", "x"),
            tree={
                "a": directory(),
                "a/real": directory(),
                "a/real/x": file("x"),
                "a/one": link("real"),
                "two": link("a/one"),
                "three": link("/two/."),
            },
            overlay=SYMLINK_UNKNOWN,
        ),
        case(
            "a-lower-symlink-that-leads-nowhere-yet",
            _layer().symlink("lib", "usr/lib"),
            _layer().file("lib/x", "x"),
            tree={
                "lib": link("usr/lib"),
                "usr": implied(),
                "usr/lib": implied(),
                "usr/lib/x": file("x"),
            },
            overlay=SYMLINK_UNKNOWN,
            podman="refuses it",
        ),
        case(
            "a-symlink-of-the-same-layer-is-followed",
            _layer().dir("usr").dir("usr/lib").symlink("lib", "usr/lib").file("lib/x", "x"),
            tree={
                "usr": directory(),
                "usr/lib": directory(),
                "usr/lib/x": file("x"),
                "lib": link("usr/lib"),
            },
        ),
        case(
            "a-symlink-of-the-same-layer-to-a-lower-directory",
            _layer().dir("usr", mode=0o711).dir("usr/lib", mode=0o700).file("usr/lib/y"),
            _layer().symlink("lib", "usr/lib").file("lib/x", "x"),
            tree={
                "usr": directory(0o711),
                "usr/lib": directory(0o700),
                "usr/lib/x": file("x"),
                "usr/lib/y": file(),
                "lib": link("usr/lib"),
            },
        ),
        case(
            "a-file-of-a-lower-layer-in-the-way-of-a-directory",
            _layer().file("d", "a file"),
            _layer().file("d/x", "x"),
            tree={"d": implied(), "d/x": file("x")},
            umoci="refuses it",
            podman="refuses it",
        ),
        case(
            "a-symlink-of-a-lower-layer-to-a-file-in-the-way-of-a-directory",
            _layer().file("f", "a file").symlink("l", "f"),
            _layer().file("l/d/x", "x"),
            tree={
                "f": file("a file"),
                "l": implied(),
                "l/d": implied(),
                "l/d/x": file("x"),
            },
            umoci="refuses it",
            podman="refuses it",
        ),
        case(
            "a-symlink-of-a-lower-layer-that-comes-back-to-a-file",
            _layer().file("f", "a file").symlink("l", "new/../f"),
            _layer().file("l/x", "x"),
            tree={"f": file("a file"), "l": implied(), "l/x": file("x")},
            umoci="refuses it",
            podman="refuses it",
        ),
    ]


def _hard_links() -> list[Case]:
    two = {"a": file("x"), "b": file("x")}
    three = {**two, "c": file("x")}
    return [
        case(
            "hard-link-in-a-layer",
            _layer().file("a", "x", mode=0o4755).hardlink("b", "a"),
            tree=linked({"a": file("x", 0o4755), "b": file("x", 0o4755)}, "a", "b"),
            podman="gives the file the mode that the link's header has",
        ),
        case(
            "three-hard-links-in-a-chain",
            _layer().file("a", "x").hardlink("b", "a").hardlink("c", "b"),
            tree=linked(three, "a", "b", "c"),
        ),
        case(
            "hard-link-with-dots-and-slashes-in-its-target",
            _layer().file("a", "x").hardlink("b", "./a").hardlink("c", "/a"),
            tree=linked(three, "a", "b", "c"),
        ),
        case(
            "hard-link-to-a-lower-layer",
            _layer().file("a", "x"),
            _layer().hardlink("b", "a"),
            tree=linked(two, "a", "b"),
        ),
        case(
            "hard-links-to-one-lower-file-of-two-layers",
            _layer().file("a", "x"),
            _layer().hardlink("b", "a"),
            _layer().hardlink("c", "b"),
            tree=linked(three, "a", "b", "c"),
            extracted="overlayfs copies a file up for a new name and so parts it from the others",
        ),
        case(
            "hard-link-to-a-link-to-a-lower-layer",
            _layer().file("a", "x"),
            _layer().hardlink("b", "a").hardlink("c", "b"),
            tree=linked(three, "a", "b", "c"),
        ),
        case(
            "hard-link-to-a-link-where-a-lower-layer-has-another-file",
            _layer().file("a", "x").file("b", "another"),
            _layer().hardlink("b", "a").hardlink("c", "b"),
            tree=linked(three, "a", "b", "c"),
        ),
        case(
            "hard-link-to-what-the-layer-has-behind-a-lower-symlink",
            _layer().dir("r").symlink("s", "r"),
            _layer().file("s/a", "x").hardlink("b", "r/a"),
            tree=linked(
                {"r": directory(), "r/a": file("x"), "s": link("r"), "b": file("x")}, "r/a", "b"
            ),
            overlay=SYMLINK_UNKNOWN,
        ),
        case(
            "hard-link-through-a-lower-symlink-to-what-the-layer-has",
            _layer().dir("r").file("r/a", "old").symlink("s", "r"),
            _layer().file("r/a", "x").hardlink("b", "s/a"),
            tree=linked(
                {"r": directory(), "r/a": file("x"), "s": link("r"), "b": file("x")}, "r/a", "b"
            ),
        ),
        case(
            "hard-link-to-a-link-behind-a-lower-symlink",
            _layer().dir("r").symlink("s", "r").file("f", "x"),
            _layer().hardlink("s/a", "f").hardlink("b", "r/a"),
            tree=linked(
                {
                    "r": directory(),
                    "r/a": file("x"),
                    "s": link("r"),
                    "b": file("x"),
                    "f": file("x"),
                },
                "r/a",
                "b",
                "f",
            ),
            overlay=SYMLINK_UNKNOWN,
        ),
        case(
            "hard-link-through-a-symlink-of-the-layer-to-a-lower-file",
            _layer().dir("r").file("r/a", "x"),
            _layer().symlink("s", "r").hardlink("b", "s/a"),
            tree=linked(
                {"r": directory(), "r/a": file("x"), "s": link("r"), "b": file("x")}, "r/a", "b"
            ),
        ),
        case(
            "hard-link-to-a-symlink",
            _layer().symlink("a", "nowhere").hardlink("b", "a"),
            tree=linked({"a": link("nowhere"), "b": link("nowhere")}, "a", "b"),
        ),
        case(
            "hard-link-to-a-lower-symlink",
            _layer().symlink("a", "nowhere"),
            _layer().hardlink("b", "a"),
            tree=linked({"a": link("nowhere"), "b": link("nowhere")}, "a", "b"),
            store="a tree of the chain's own shares files with layers, and no symlinks",
        ),
        case(
            "hard-link-to-a-fifo-and-a-device",
            _layer().fifo("a").hardlink("b", "a").device("c", 1, 3).hardlink("d", "c"),
            tree=linked(
                linked({"a": fifo(), "b": fifo(), "c": char(1, 3), "d": char(1, 3)}, "a", "b"),
                "c",
                "d",
            ),
        ),
        case(
            "hard-link-to-a-file-that-this-layer-replaces-afterwards",
            _layer().file("a", "old"),
            _layer().file("a", "first").hardlink("b", "a").file("a", "second"),
            tree={"a": file("second"), "b": file("first")},
            podman="refuses a path that comes twice in a layer",
        ),
        case(
            "hard-link-to-a-file-that-this-layer-replaced-before",
            _layer().file("a", "old"),
            _layer().file("a", "x").hardlink("b", "a"),
            tree=linked(two, "a", "b"),
        ),
        case(
            "hard-link-to-a-lower-file-that-this-layer-whites-out",
            _layer().file("a", "x"),
            _layer().hardlink("b", "a").whiteout("a"),
            tree={"b": file("x")},
            extracted="whiteouts come first in it: the link's target is gone",
        ),
        case(
            "hard-link-before-its-target",
            _layer().hardlink("b", "a").file("a", "x"),
            tree=linked(two, "a", "b"),
            umoci=_LINK_BEFORE_TARGET,
            extracted=_LINK_BEFORE_TARGET,
            podman=_LINK_BEFORE_TARGET,
        ),
        case(
            # Read one after the other, b is the lower file.  A layer is one change set
            # (layer.md, "Change Types"), in which a is the new file whatever the order.
            "hard-link-before-its-target-that-a-lower-layer-has-as-well",
            _layer().file("a", "lower"),
            _layer().hardlink("b", "a").file("a", "x"),
            tree=linked(two, "a", "b"),
            umoci=_SEQUENTIAL,
            extracted=_SEQUENTIAL,
            podman=_SEQUENTIAL,
        ),
        case(
            "hard-links-in-a-chain-before-their-target",
            _layer().hardlink("b", "a").hardlink("c", "b").file("a", "x"),
            tree=linked(three, "a", "b", "c"),
            umoci=_LINK_BEFORE_TARGET,
            extracted=_LINK_BEFORE_TARGET,
            podman=_LINK_BEFORE_TARGET,
        ),
        case(
            "hard-links-in-a-reversed-chain-before-their-target",
            _layer().hardlink("c", "b").hardlink("b", "a").file("a", "x"),
            tree=linked(three, "a", "b", "c"),
            umoci=_LINK_BEFORE_TARGET,
            extracted=_LINK_BEFORE_TARGET,
            podman=_LINK_BEFORE_TARGET,
        ),
        case(
            "hard-link-over-another-file-and-over-a-directory",
            _layer().file("a", "x").file("b", "gone").dir("c").file("c/gone"),
            _layer().file("a", "x").hardlink("b", "a").hardlink("c", "a"),
            tree=linked(three, "a", "b", "c"),
        ),
        case(
            "hard-link-to-itself",
            _layer().file("a", "x").hardlink("a", "a"),
            tree={"a": file("x")},
            umoci="removes the file that it is to link to",
            podman="removes the file that it is to link to",
        ),
        case(
            "hard-link-through-a-symlinked-parent",
            _layer().dir("r").file("r/a", "x").symlink("s", "r"),
            _layer().hardlink("b", "s/a"),
            tree=linked(
                {"r": directory(), "r/a": file("x"), "s": link("r"), "b": file("x")}, "r/a", "b"
            ),
        ),
        case(
            "hard-link-whose-other-name-is-whited-out-above",
            _layer().file("a", "x").hardlink("b", "a"),
            _layer().whiteout("a"),
            tree={"b": file("x")},
        ),
        case(
            "hard-link-of-which-one-name-is-replaced-above",
            _layer().file("a", "x").hardlink("b", "a").hardlink("c", "a"),
            _layer().file("a", "new"),
            tree=linked({**three, "a": file("new")}, "b", "c"),
        ),
    ]


def _metadata() -> list[Case]:
    return [
        case(
            "all-twelve-bits-of-the-mode",
            _layer()
            .file("setuid", mode=0o4755)
            .file("setgid", mode=0o2755)
            .file("all", mode=0o7777)
            .file("none", mode=0)
            .dir("sticky", mode=0o1777)
            .dir("setgid.d", mode=0o2775)
            .dir("none.d", mode=0)
            .file("none.d/x")
            .fifo("fifo", mode=0o7777)
            .device("device", 1, 3, mode=0o6666),
            tree={
                "setuid": file(mode=0o4755),
                "setgid": file(mode=0o2755),
                "all": file(mode=0o7777),
                "none": file(mode=0),
                "sticky": directory(0o1777),
                "setgid.d": directory(0o2775),
                "none.d": directory(0),
                "none.d/x": file(),
                "fifo": fifo(0o7777),
                "device": char(1, 3, 0o6666),
            },
        ),
        case(
            "mode-bits-survive-another-owner",
            _layer()
            .file("file", mode=0o6755, uid=5, gid=6)
            .fifo("fifo", mode=0o6755, uid=5, gid=6)
            .device("device", 1, 3, mode=0o6755, uid=5, gid=6)
            .dir("dir", mode=0o7755, uid=5, gid=6),
            tree={
                "file": file(mode=0o6755, uid=5, gid=6),
                "fifo": fifo(0o6755, uid=5, gid=6),
                "device": char(1, 3, 0o6755, uid=5, gid=6),
                "dir": directory(0o7755, uid=5, gid=6),
            },
        ),
        case(
            "mode-bits-with-xattrs",
            _layer().file(
                "ping",
                "elf",
                mode=0o4755,
                uid=1,
                xattrs={"security.capability": bytes.fromhex("0100000200200000" + "00" * 12)},
            ),
            tree={
                "ping": file(
                    "elf",
                    0o4755,
                    uid=1,
                    xattrs=(
                        (
                            b"security.capability",
                            bytes.fromhex("0100000200200000" + "00" * 12),
                        ),
                    ),
                )
            },
        ),
        case(
            "owners-above-65535-and-up-to-the-last",
            _layer()
            .file("a", uid=65536, gid=100000)
            .symlink("l", "a", uid=70000, gid=70001)
            .dir("d", uid=2**32 - 2, gid=2**32 - 2),
            tree={
                "a": file(uid=65536, gid=100000),
                "l": link("a", uid=70000, gid=70001),
                "d": directory(uid=2**32 - 2, gid=2**32 - 2),
            },
        ),
        case(
            "times-of-all-kinds",
            _layer()
            .file("zero", mtime=0)
            .file("negative", mtime=-1)
            .file("negative-fraction", pax={"mtime": "-1.5"})
            .file("nearly-zero", pax={"mtime": "-0.000000001"})
            .file("nanoseconds", pax={"mtime": "1700000000.123456789"})
            .file("more-digits", pax={"mtime": "1700000000.1234567891"})
            .file("far", mtime=4_294_967_296)
            .symlink("link", "zero", pax={"mtime": "5.000000005"})
            .fifo("fifo", pax={"mtime": "6.000000006"})
            .dir("dir", pax={"mtime": "7.000000007"})
            .file("dir/x"),
            tree={
                "zero": file(mtime_ns=0),
                "negative": file(mtime_ns=-1_000_000_000),
                "negative-fraction": file(mtime_ns=-1_500_000_000),
                "nearly-zero": file(mtime_ns=-1),
                "nanoseconds": file(mtime_ns=1_700_000_000_123_456_789),
                "more-digits": file(mtime_ns=1_700_000_000_123_456_789),
                "far": file(mtime_ns=4_294_967_296_000_000_000),
                "link": link("zero", mtime_ns=5_000_000_005),
                "fifo": fifo(mtime_ns=6_000_000_006),
                "dir": directory(mtime_ns=7_000_000_007),
                "dir/x": file(),
            },
            podman="raises times before the epoch to zero",
        ),
        case(
            "directory-times-survive-what-is-written-into-them",
            _layer().dir("d", mtime=3).dir("d/e", mtime=4).file("d/e/x"),
            _layer().file("d/e/y").dir("d/f", mtime=5).file("d/f/z"),
            tree={
                "d": directory(mtime_ns=3_000_000_000),
                "d/e": directory(mtime_ns=4_000_000_000),
                "d/e/x": file(),
                "d/e/y": file(),
                "d/f": directory(mtime_ns=5_000_000_000),
                "d/f/z": file(),
            },
        ),
        case(
            "xattrs-on-files-and-directories",
            _layer()
            .file("f", xattrs={"user.one": b"1", "user.bytes": b"\0\xff\n", "user.empty": b""})
            .dir("d", xattrs={"user.d": b"d", "trusted.t": b"t"})
            .symlink("l", "f", xattrs={"trusted.on.link": b"yes"}),
            tree={
                "f": file(
                    xattrs=((b"user.bytes", b"\0\xff\n"), (b"user.empty", b""), (b"user.one", b"1"))
                ),
                "d": directory(xattrs=((b"trusted.t", b"t"), (b"user.d", b"d"))),
                "l": link("f", xattrs=((b"trusted.on.link", b"yes"),)),
            },
            umoci="drops attributes with an empty value",
            podman="drops attributes with an empty value",
        ),
        case(
            "xattrs-of-a-lower-directory-go-when-it-is-replaced",
            _layer().dir("d", xattrs={"user.old": b"1"}).file("f", xattrs={"user.old": b"1"}),
            _layer().dir("d").file("f"),
            tree={"d": directory(), "f": file()},
            podman="leaves those that the lower directory had",
        ),
        case(
            "xattrs-for-overlayfs-do-not-act",
            _layer().dir("d").file("d/x"),
            _layer().dir(
                "d",
                xattrs={"trusted.overlay.opaque": b"y", "user.overlay.opaque": b"y"},
            ),
            tree={"d": directory(), "d/x": file()},
        ),
        case(
            "devices-and-fifos",
            _layer()
            .device("null", 1, 3, mode=0o666)
            .device("agpgart", 10, 175, mode=0o660)
            .device("disk", 8, 0, kind="block", mode=0o660)
            .device("large", 4095, 1048575)
            .fifo("fifo", mode=0o600),
            tree={
                "null": char(1, 3, 0o666),
                "agpgart": char(10, 175, 0o660),
                "disk": block(8, 0, 0o660),
                "large": char(4095, 1048575),
                "fifo": fifo(0o600),
            },
        ),
        case(
            "a-device-with-the-number-of-a-whiteout-is-a-device",
            _layer().file("x", "lower"),
            _layer().device("x", 0, 0, mode=0o600).device("y", 0, 0),
            tree={"x": char(0, 0, 0o600), "y": char(0, 0)},
            overlay=_DEVICE_OF_WHITEOUTS,
            store=_DEVICE_OF_WHITEOUTS,
            extracted="overlayfs does not let one make a device 0:0",
        ),
    ]


def _names() -> list[Case]:
    latin = b"caf\xe9"
    odd = b"new\nline\\and\ttab \x7f#*?[~"
    deep = "/".join(["d" * 200] * 15)
    parents = ["/".join(["d" * 200] * n) for n in range(1, 16)]
    return [
        case(
            "names-that-are-no-text",
            _layer()
            .file(latin, "1")
            .file(odd, "2")
            .symlink(b"link\xff", latin)
            .hardlink(b"hard\xfe", odd)
            .dir(b"d\x80\x81")
            .file(b"d\x80\x81/#x", "3")
            .file("#comment", "4")
            .file("name=value type=dir", "5")
            .file("trailing space ", "6")
            .file("/set", "7")
            .file("..a", "8")
            .file("...", "9"),
            tree={
                latin: file("1"),
                odd: file("2", group=(b"hard\xfe", odd)),
                b"hard\xfe": file("2", group=(b"hard\xfe", odd)),
                b"link\xff": link(latin),
                b"d\x80\x81": directory(),
                b"d\x80\x81/#x": file("3"),
                "#comment": file("4"),
                "name=value type=dir": file("5"),
                "trailing space ": file("6"),
                "set": file("7"),
                "..a": file("8"),
                "...": file("9"),
            },
        ),
        case(
            "names-that-differ-in-case-only",
            _layer().file("README", "1").file("readme", "2").dir("Dir").dir("dir"),
            _layer().whiteout("README"),
            tree={"readme": file("2"), "Dir": directory(), "dir": directory()},
        ),
        case(
            "names-of-255-bytes",
            _layer().file("n" * 255, "1").dir("d" * 255).symlink("l" * 255, "t" * 1000),
            tree={
                "n" * 255: file("1"),
                "d" * 255: directory(),
                "l" * 255: link("t" * 1000),
            },
        ),
        case(
            "deep-and-long-paths",
            _layer().file(f"{deep}/x", "x"),
            _layer().hardlink(f"{deep}/y", f"{deep}/x"),
            tree={
                **{parent: implied() for parent in parents},
                f"{deep}/x": file("x", group=(f"{deep}/x".encode(), f"{deep}/y".encode())),
                f"{deep}/y": file("x", group=(f"{deep}/x".encode(), f"{deep}/y".encode())),
            },
        ),
        case(
            "cvmfs-own-names",
            _layer()
            .file(".cvmfscatalog", "mine")
            .dir("a")
            .dir("a/.cvmfscatalog")
            .symlink("b", "a/.cvmfscatalog")
            .file(".cvmfsdirtab", "/ * \n")
            .file("a/.cvmfsautocatalog")
            .file(".cvmfsbundles", "{}")
            .file("a/.cvmfsgraft-x", "size=1\nchecksum=00\n")
            .file("a/x"),
            _layer().dir("c").symlink("c/.cvmfscatalog", "/etc/passwd").fifo("c/.cvmfsdirtab"),
            tree={
                ".cvmfscatalog": file("mine"),
                "a": directory(),
                "a/.cvmfscatalog": directory(),
                "b": link("a/.cvmfscatalog"),
                ".cvmfsdirtab": file("/ * \n"),
                "a/.cvmfsautocatalog": file(),
                ".cvmfsbundles": file("{}"),
                "a/.cvmfsgraft-x": file("size=1\nchecksum=00\n"),
                "a/x": file(),
                "c": directory(),
                "c/.cvmfscatalog": link("/etc/passwd"),
                "c/.cvmfsdirtab": fifo(),
            },
        ),
        case(
            "wh-inside-a-name-is-only-a-name",
            _layer().file("a.wh.b", "1").file("wh.", "2").dir("x.wh..wh..opq").file("a.wh.", "3"),
            tree={
                "a.wh.b": file("1"),
                "wh.": file("2"),
                "x.wh..wh..opq": directory(),
                "a.wh.": file("3"),
            },
        ),
    ]


CASES = (
    *_merging(),
    *_whiteouts(),
    *_parents(),
    *_hard_links(),
    *_metadata(),
    *_names(),
)
"""All of them, by family."""
