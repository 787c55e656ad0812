"""Layers that try to leave their directory.

``OUTSIDE`` stands for the absolute path of a canary directory, which has a file
``secret``, a directory ``directory`` with a file in it, and a link ``link``.
A layer comes to nothing (it is refused) or to a tree inside; which of both is
said here, so that neither good input is refused nor the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from support.images import Layer, LayerBuilder

from .streams import END, header, member, pax

Build = Callable[[str], list[LayerBuilder | Layer]]


@dataclass(frozen=True, slots=True)
class Escape:
    """``build`` makes the layers, lowest first, from the canary's path.

    ``inside`` are paths that the published tree then has; None: the image is refused.
    """

    name: str
    build: Build
    inside: tuple[str, ...] | None

    def layers(self, outside: str) -> list[Layer]:
        """The layers for a canary in ``outside``."""
        return [
            each.layer("none") if isinstance(each, LayerBuilder) else each
            for each in self.build(outside)
        ]

    def __str__(self) -> str:
        return self.name


def _layer() -> LayerBuilder:
    return LayerBuilder()


def _raw(*parts: bytes) -> Layer:
    return Layer(b"".join(parts) + END, "none")


def _up(outside: str) -> str:
    """Far above any staging directory, and down to the canary again."""
    return "../" * 40 + outside.lstrip("/")


ESCAPES = (
    # --- names
    Escape("dots-in-a-name", lambda out: [_layer().file(f"{_up(out)}/secret", "x")], None),
    Escape("dots-after-a-directory", lambda out: [_layer().dir("a").file("a/../../x")], None),
    Escape("only-dots", lambda out: [_layer().dir("..", mode=0o777)], None),
    Escape("dots-in-the-middle-stay-inside", lambda out: [_layer().file("a/../b", "x")], ("b",)),
    Escape(
        "absolute-name-is-below-the-root",
        lambda out: [_layer().file(f"{out}/secret", "x")],
        ("{out}/secret",),
    ),
    Escape("absolute-name-with-dots", lambda out: [_layer().file("/../../secret", "x")], None),
    Escape(
        "dots-in-a-pax-name",
        lambda out: [_raw(pax({b"path": f"{_up(out)}/secret".encode()}), member(b"x", b"x"))],
        None,
    ),
    Escape(
        "dots-split-between-prefix-and-name",
        lambda out: [_raw(header(b"../secret", tail=b"a/.."))],
        None,
    ),
    Escape("dots-in-a-whiteout", lambda out: [_layer().file(f"{_up(out)}/.wh.secret")], None),
    Escape("whiteout-of-dot", lambda out: [_layer().file(".wh..")], None),
    Escape("whiteout-of-dots", lambda out: [_layer().file(".wh...")], None),
    Escape("whiteout-of-nothing", lambda out: [_layer().file("a/.wh.")], None),
    Escape("dots-in-an-opaque-whiteout", lambda out: [_layer().opaque(_up(out))], None),
    # --- symlinks
    Escape(
        "file-through-an-absolute-symlink",
        lambda out: [_layer().symlink("l", out).file("l/secret", "x")],
        ("l", "{out}/secret"),
    ),
    Escape(
        "file-through-a-relative-symlink",
        lambda out: [_layer().symlink("l", _up(out)).file("l/secret", "x")],
        ("l", "{out}/secret"),
    ),
    Escape(
        "file-through-a-lower-symlink",
        lambda out: [_layer().symlink("l", out), _layer().file("l/secret", "x")],
        ("l", "{out}/secret"),
    ),
    Escape(
        "file-onto-a-symlink-replaces-it",
        lambda out: [_layer().symlink("l", f"{out}/secret").file("l", "x")],
        ("l",),
    ),
    Escape(
        "file-onto-a-lower-symlink-replaces-it",
        lambda out: [_layer().symlink("l", f"{out}/secret"), _layer().file("l", "x")],
        ("l",),
    ),
    Escape(
        "several-hops",
        lambda out: [
            _layer()
            .symlink("a", "/")
            .symlink("b", "a/..")
            .symlink("c", f"b/{out}")
            .file("c/secret", "x")
        ],
        ("{out}/secret",),
    ),
    Escape(
        "hops-that-climb-one-by-one",
        lambda out: [
            _layer()
            .dir("d")
            .symlink("d/up", "..")
            .symlink("top", "d/up/../../..")
            .file(f"top{out}/secret", "x")
        ],
        ("{out}/secret",),
    ),
    Escape(
        "symlinks-in-a-ring",
        lambda out: [_layer().symlink("a", "b").symlink("b", "a").file("a/x")],
        None,
    ),
    Escape(
        "symlinks-in-a-ring-below",
        lambda out: [_layer().symlink("a", "b").symlink("b", "a"), _layer().file("a/x")],
        None,
    ),
    Escape(
        "symlink-that-grows-with-each-hop",
        lambda out: [_layer().symlink("a", "a/a/a/a").file("a/x")],
        None,
    ),
    Escape(
        "symlink-replaced-by-a-directory-and-back",
        lambda out: [
            _layer().dir("d").symlink("d", out).file("d/secret", "x").dir("d").file("d/secret", "y")
        ],
        ("d/secret",),
    ),
    Escape(
        "proc-self-fd",
        lambda out: [
            _layer().symlink("l", "/proc/self/fd/0").symlink("c", "/proc/self/cwd").file("c/x", "x")
        ],
        ("proc/self/cwd/x",),
    ),
    # --- the root (CVE-2021-29136)
    Escape("root-as-a-symlink", lambda out: [_layer().symlink("./", out)], None),
    Escape(
        "root-as-a-symlink-without-a-name",
        lambda out: [_raw(header(b"", kind=b"2", target=out.encode()))],
        None,
    ),
    Escape("root-as-a-file", lambda out: [_layer().file("/", "x")], None),
    Escape("root-as-a-hard-link", lambda out: [_layer().hardlink(".", f"{out}/secret")], None),
    Escape("root-as-a-device", lambda out: [_layer().device(".", 1, 3)], None),
    # --- hard links
    Escape("hard-link-by-dots", lambda out: [_layer().hardlink("h", f"{_up(out)}/secret")], None),
    Escape("hard-link-absolute", lambda out: [_layer().hardlink("h", f"{out}/secret")], None),
    Escape(
        "hard-link-through-a-symlink",
        lambda out: [_layer().symlink("l", out).hardlink("h", "l/secret").file("h", "x")],
        ("h",),
    ),
    Escape(
        "hard-link-through-a-lower-symlink",
        lambda out: [_layer().symlink("l", out), _layer().hardlink("h", "l/secret")],
        None,
    ),
    Escape(
        "hard-link-to-a-symlink-and-a-file-onto-it",
        lambda out: [_layer().symlink("l", f"{out}/secret").hardlink("h", "l").file("h", "x")],
        ("h", "l"),
    ),
    Escape(
        "hard-link-to-a-prefix-sibling",
        lambda out: [_layer().hardlink("h", "../layerfs-evil/x")],
        None,
    ),
    Escape("hard-link-to-the-root", lambda out: [_layer().hardlink("h", "/")], None),
    Escape("hard-link-to-a-directory", lambda out: [_layer().dir("d").hardlink("h", "d")], None),
    Escape(
        "hard-link-to-a-lower-directory",
        lambda out: [_layer().dir("d"), _layer().hardlink("h", "d")],
        None,
    ),
    Escape("hard-link-to-nothing", lambda out: [_layer().hardlink("h", "nowhere")], None),
    Escape(
        "hard-links-in-a-ring", lambda out: [_layer().hardlink("a", "b").hardlink("b", "a")], None
    ),
    Escape(
        "hard-link-to-metadata",
        lambda out: [_layer().hardlink("h", "../.metadata/tree.mtree")],
        None,
    ),
    # --- attributes (CVE-2021-32760)
    Escape(
        "mode-and-owner-through-a-symlink",
        lambda out: [
            _layer()
            .symlink("l", f"{out}/secret", mode=0o777, uid=1, gid=1, mtime=1)
            .hardlink("l2", "l", mode=0o666)
        ],
        ("l", "l2"),
    ),
    Escape(
        "directory-onto-a-symlink-with-a-mode",
        lambda out: [_layer().symlink("l", f"{out}/directory").dir("l", mode=0o777, uid=1)],
        ("l",),
    ),
    Escape(
        "directory-onto-a-lower-symlink-with-a-mode",
        lambda out: [
            _layer().symlink("l", f"{out}/directory"),
            _layer().dir("l", mode=0o777, uid=1),
        ],
        ("l",),
    ),
    Escape(
        "xattrs-on-a-symlink",
        lambda out: [_layer().symlink("l", f"{out}/secret", xattrs={"trusted.x": b"1"})],
        ("l",),
    ),
    # --- whiteouts
    Escape(
        "whiteout-through-a-symlink",
        lambda out: [_layer().symlink("l", out).whiteout("l/secret").whiteout("l/directory")],
        ("l",),
    ),
    Escape(
        "whiteout-through-a-lower-symlink",
        lambda out: [_layer().symlink("l", out), _layer().whiteout("l/secret")],
        ("l",),
    ),
    Escape(
        "opaque-through-a-symlink",
        lambda out: [_layer().symlink("l", out).opaque("l").opaque("l/directory")],
        ("l",),
    ),
    Escape(
        "opaque-through-a-lower-symlink",
        lambda out: [_layer().symlink("l", f"{out}/directory"), _layer().opaque("l")],
        ("l",),
    ),
    # --- special files are made and never opened
    Escape(
        "fifo-that-would-block",
        lambda out: [_layer().fifo("f").hardlink("g", "f"), _layer().hardlink("h", "g")],
        ("f", "g", "h"),
    ),
    Escape(
        "files-through-a-fifo",
        lambda out: [_layer().fifo("f").file("f/x")],
        None,
    ),
    Escape(
        "device-and-a-file-onto-it",
        lambda out: [_layer().device("null", 1, 3).file("null", "x" * 100), _layer().file("null")],
        ("null",),
    ),
)
