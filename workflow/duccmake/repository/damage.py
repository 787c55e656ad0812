"""What can be damaged in a repository, how it is looked for and what is found, as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ..tree.verify import at_once


class Kind(StrEnum):
    """What is verified as a whole, and mended as a whole."""

    IMAGE = "image"
    """An image's metadata, its links, and what podman's store has of it; by its name."""
    FLAT = "flat tree"
    """A flat tree, by the digest of its configuration."""
    LAYER = "layer"
    """A layer, by its digest."""
    REPOSITORY = "repository"
    """What no image has for itself, by the repository's name."""


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """One of them; ``key`` tells it from others of its kind."""

    kind: Kind
    key: str

    def __str__(self) -> str:
        """The thing for people."""
        return f"{self.kind} {self.key}"


@dataclass(frozen=True, slots=True)
class Damage:
    """What is not as it should be, and where: ``path`` counts from the repository's root."""

    path: str
    words: str

    def __str__(self) -> str:
        """The damage for people."""
        return f"{self.path}: {self.words}"


@dataclass(frozen=True, slots=True)
class Reading:
    """How trees are read: with the ``content`` of files or without it.

    ``read`` is told how many bytes were read, and may take its time.  ``apart`` says that
    somebody reads the layers, so that files which a flat tree shares with them need not be.
    """

    content: bool = True
    read: Callable[[int], None] = at_once
    apart: bool = False
