"""Readers who never stop looking, and images of which they can tell that they are not whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from duccmake.demo.images import Image
from support.images import Layer, LayerBuilder
from support.samples import AMD64


def twice(text: str, *layers: Layer) -> Image:
    """An image that says the same in two files."""
    top = LayerBuilder().file("content", text).dir("d").file("d/content", text)
    return Image((*layers, top.layer()), {}, platform=AMD64)


class Readers:
    """Look into every image that is linked, all the time; ``torn`` is what was not whole."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.torn: list[str] = []
        self.looks = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._done.set()
            self._thread.join()

    def _read(self) -> None:
        while not self._done.wait(0.02):
            for link in self._root.glob("*/team/[!.]*"):
                try:
                    tree = os.open(link, os.O_RDONLY | os.O_DIRECTORY)
                except FileNotFoundError:
                    if link.is_symlink() and not link.exists() and link.is_symlink():
                        self.torn.append(f"{link} leads nowhere")
                    continue
                try:
                    one, two = (self._content(tree, name) for name in ("content", "d/content"))
                    if one != two:
                        self.torn.append(f"{link} has {one!r} and {two!r}")
                except OSError as error:
                    self.torn.append(f"{link}: {error}")
                finally:
                    os.close(tree)
                self.looks += 1

    @staticmethod
    def _content(tree: int, name: str) -> bytes:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=tree)
        with os.fdopen(descriptor, "rb") as content:
            return content.read()
