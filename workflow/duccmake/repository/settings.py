"""What the configuration says of repositories, as values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .layout import split_variant


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """What one commit takes at most, beyond one image; 0 is no limit."""

    images: int = 100
    bytes: int = 20 * 1024**3
    entries: int = 2_000_000


@dataclass(frozen=True, slots=True)
class ShareSettings:
    """Which images a publisher sees to, as ``number`` of as many publishers as ``of`` says."""

    number: int = 1
    of: int = 1

    def has(self, name: str) -> bool:
        """Whether an image of that name (or a glob) is this publisher's.

        All tags of a repository, on all platforms, are one publisher's: they share layers.
        """
        if self.of == 1:
            return True
        path, _, last = split_variant(name)[1].rpartition("/")
        repository = f"{path}/{last.partition('@')[0].partition(':')[0]}"
        found = hashlib.sha256(repository.encode()).digest()
        return int.from_bytes(found[:8]) % self.of == self.number - 1


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """Where and how images are published.

    ``root`` holds the repository's own folder (backend ``directory``), and
    ``clients_root`` is what stands for it on the machines that use the images, if
    that is another.  ``mounts`` are the mounted repositories and ``server_config``
    their settings (backend ``cvmfs``); a ``state`` of None stands for the
    repository's spool area, and everything is put below the directory ``prefix``.
    ``publisher`` says who makes objects and catalogs, ``compression`` and ``hard_links``
    how jobs make them.  ``url`` is where a machine that does not publish reads, and
    ``public_key`` the file of the key that it trusts.  ``share`` says which images.
    """

    backend: str = "directory"
    root: Path = Path("cvmfs")
    flat: Literal["hardlink", "reflink", "copy"] = "hardlink"
    lock_seconds: float = 3600.0
    mounts: Path = Path("/cvmfs")
    server_config: Path = Path("/etc/cvmfs/repositories.d")
    state: Path | None = None
    clients_root: Path | None = None
    prefix: str = ""
    publisher: Literal["auto", "catalogs", "ingest"] = "auto"
    compression: Literal["fast", "balanced", "small"] = "balanced"
    hard_links: bool = False
    url: str = ""
    public_key: Path | None = None
    batch: BatchSettings = field(default_factory=BatchSettings)
    share: ShareSettings = field(default_factory=ShareSettings)

    @property
    def in_catalogs(self) -> bool:
        """Whether layers are staged as objects and catalogs, not as trees."""
        return self.backend == "cvmfs"

    @property
    def staged_form(self) -> tuple[object, ...]:
        """All that decides what is staged of a layer or a flat tree."""
        if not self.in_catalogs:
            return ("tree",)
        return ("catalogs", self.prefix, self.compression, self.hard_links)
