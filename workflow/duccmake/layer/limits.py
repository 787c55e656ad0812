"""How much a layer may cost: what no honest image needs is refused."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..errors import LimitExceeded

_RATIO_GRACE = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Limits for one layer; 0 means no limit.

    ``bytes`` unpacked, ``entries`` in the archive and directories that it needs beyond,
    ``ratio`` of unpacked to downloaded bytes (looked at past the first 100 MiB),
    ``header_bytes`` of one entry's extended headers, ``path_bytes`` of one path,
    ``path_depth`` in components, ``seconds`` of unpacking.
    """

    bytes: int = 200 * 1024**3
    entries: int = 5_000_000
    ratio: float = 200.0
    header_bytes: int = 1024**2
    path_bytes: int = 4095
    path_depth: int = 512
    seconds: float = 6 * 3600.0


class Account:
    """What unpacking one layer has cost so far; all methods raise `LimitExceeded`.

    Not only the archive costs: a hole of terabytes takes no byte of it, and a hard link
    hardly any.  ``blob_bytes`` is the size of what was downloaded, 0 where that is not
    known.  One thread reads the archive, and another one makes what it says.
    """

    def __init__(self, limits: UnpackLimits, blob_bytes: int = 0) -> None:
        self.limits = limits
        self.blob_bytes = blob_bytes
        self._deadline = time.monotonic() + limits.seconds if limits.seconds else 0.0
        self._read = 0
        self._made = 0
        self._entries = 0

    def read(self, count: int) -> None:
        """Add bytes of the archive."""
        self._read += count
        self._check_bytes()
        self.check_time()

    def made(self, count: int) -> None:
        """Add bytes that are made and not in the archive: holes, lines of the manifest."""
        self._made += count
        self._check_bytes()
        self.check_time()

    def entry(self) -> None:
        """Add an entry, or a directory that the archive needs and does not mention."""
        self._entries += 1
        limit = self.limits.entries
        if limit and self._entries > limit:
            raise LimitExceeded(
                f"the layer has more than {limit} entries, directories that it needs included",
                hint="raise limits.entries if the image is honest",
            )

    def check_time(self) -> None:
        """Say that time goes by, in what takes long."""
        if self._deadline and time.monotonic() > self._deadline:
            raise LimitExceeded(
                f"unpacking took longer than {self.limits.seconds:g} seconds",
                hint="raise limits.seconds if the image is honest",
            )

    def _check_bytes(self) -> None:
        total, limits = self._read + self._made, self.limits
        if limits.bytes and total > limits.bytes:
            raise LimitExceeded(
                f"the layer unpacks to more than {limits.bytes} bytes",
                hint="raise limits.bytes if the image is honest",
            )
        if (
            limits.ratio
            and self.blob_bytes
            and total > max(_RATIO_GRACE, limits.ratio * self.blob_bytes)
        ):
            raise LimitExceeded(
                f"the layer unpacks to more than {limits.ratio:g} times its size "
                f"({self.blob_bytes} bytes)",
                hint="raise limits.ratio if the image is honest",
            )
