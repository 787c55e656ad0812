"""Small content (manifests, configurations) kept between runs, by digest.

All of it can be lost without harm: it costs a poll, never a conversion.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..fs.files import write_atomically
from .reference import Digest


class ContentStore:
    """Small content (manifests, configurations) under its digest."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, digest: Digest, content: bytes) -> None:
        """Keep ``content``, which the caller has verified to have this digest."""
        if not self.has(digest):
            write_atomically(self.path(digest), content)

    def has(self, digest: Digest) -> bool:
        """Whether the content is kept, whole."""
        return self.get(digest) is not None

    def get(self, digest: Digest) -> bytes | None:
        """The content, or None where it is not kept or was damaged since."""
        try:
            with open(self._name(digest), "rb") as file:
                content = file.read()
        except OSError:
            return None
        return content if hashlib.new(digest.algorithm, content).hexdigest() == digest.hex else None

    def path(self, digest: Digest) -> Path:
        """Where the content is kept."""
        return Path(self._name(digest))

    def _name(self, digest: Digest) -> str:
        # A poll reads thousands, and putting a Path together costs more than reading.
        return f"{self._root}/{digest.algorithm}/{digest.prefix}/{digest.hex}"
