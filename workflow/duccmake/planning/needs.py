"""What jobs ask a cluster for, by what is known of sizes before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .plan import UNPACKED_PER_BLOB, Plan

SMALL_BYTES = 16 * 1024**2
"""Layers below this take less time than a job of their own waits: several share one."""

_MEGABYTE = 1024**2

_BASE_MB = 300
"""An interpreter with its writers, and Snakemake's that starts it."""

_BASE_MINUTES = 10
_MB_PER_MINUTE = 60
"""A slow registry, or a layer of nothing but small files."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Memory and disk in MB (of 1024**2 bytes), time in minutes; Snakemake calls them so too."""

    mem_mb: int
    disk_mb: int
    runtime: int


def to_fetch(plan: Plan, key: str, attempt: int) -> Needs:
    """What fetching the layer ``key`` asks for in an attempt, of which the first is 1."""
    size = _megabytes([plan.blob_bytes(key)])
    return _tried(Needs(_BASE_MB, size, _minutes(size)), attempt)


def to_unpack(plan: Plan, key: str, attempt: int) -> Needs:
    """What unpacking the layer ``key`` asks for."""
    size = _megabytes([plan.blob_bytes(key)])
    # An entry takes 1.7 kB of memory, and seldom less than as much of the blob.
    return _tried(Needs(_BASE_MB + size, UNPACKED_PER_BLOB * size, _minutes(size)), attempt)


def to_flatten(plan: Plan, repository: str, key: str, attempt: int) -> Needs:
    """What merging the manifests of the layers of the flat tree ``key`` asks for."""
    image = plan.with_tree(repository, key)[0]
    size = _megabytes(layer.descriptor.size for layer in image.layers)
    return _tried(Needs(_BASE_MB + size, 1, _minutes(size // 10)), attempt)


def is_small(plan: Plan, key: str) -> bool:
    """Whether the layer ``key`` is worth no job of its own on a cluster."""
    return plan.blob_bytes(key) < SMALL_BYTES


def _megabytes(sizes: Iterable[int]) -> int:
    return sum(sizes) // _MEGABYTE + 1


def _minutes(megabytes: int) -> int:
    return _BASE_MINUTES + megabytes // _MB_PER_MINUTE


def _tried(needs: Needs, attempt: int) -> Needs:
    """Twice as much in each further attempt: of the disk as well, sizes are a guess."""
    factor = 2 ** (attempt - 1)
    return Needs(needs.mem_mb * factor, needs.disk_mb * factor, needs.runtime * factor)
