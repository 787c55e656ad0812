"""Numbers of things for people."""

from __future__ import annotations


def trees_and_layers(flats: int, layers: int, size: int, *, chains: int = 0) -> str:
    """Flat trees and layers, and chains of DUCC's if any, for people, with their size in bytes."""
    left = f" and {counted(chains, 'chain')} of DUCC's" if chains else ""
    found = f"{counted(flats, 'flat tree')} and {counted(layers, 'layer')}{left}"
    return f"{found}, {in_bytes(size)}"


def counted(number: int, noun: str) -> str:
    """A number of things for people."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def in_bytes(number: int) -> str:
    """A number of bytes for people."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def in_time(seconds: float) -> str:
    """A time that is known roughly, for people."""
    for unit, size, next_size in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 86400)):
        if seconds < 1.5 * next_size:
            return f"{max(1, round(seconds / size))} {unit}"
    return counted(round(seconds / 86400), "day")
