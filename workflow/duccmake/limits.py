"""How much a layer may cost: what no honest image needs is refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Limits for one layer; 0 means no limit.

    ``bytes`` unpacked, ``entries`` in the archive, ``ratio`` of unpacked to
    downloaded bytes (looked at past the first 100 MiB), ``header_bytes`` of one
    entry's extended headers, ``path_bytes`` of one name, ``path_depth`` in
    components, ``seconds`` of unpacking.
    """

    bytes: int = 200 * 1024**3
    entries: int = 5_000_000
    ratio: float = 200.0
    header_bytes: int = 1024**2
    path_bytes: int = 4095
    path_depth: int = 512
    seconds: float = 6 * 3600.0
