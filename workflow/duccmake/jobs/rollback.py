"""Tags that are held at a digest: pointing one back, lifting the pin, and what to say of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from ..errors import DuccmakeError
from ..oci.reference import Digest
from ..repository.edits import Edits
from ..repository.history import read as read_history
from ..repository.model import ImageRecord, Keep, Repository
from ..repository.pins import Past, Pin, pasts, pin, point, read_pins, unpin
from ..repository.removal_schedule import timestamp

_FEWEST_DIGITS = 6


def pins(repository: Repository) -> dict[str, Pin]:
    """The tags of a repository that are held, by name."""
    with repository.reading():
        path = repository.layout.pins
        return read_pins(path.read_bytes() if path.exists() else b"")


def history(repository: Repository) -> dict[str, list[tuple[str, float]]]:
    """The manifests that tags of a repository left, by name; see `repository.history`."""
    with repository.reading():
        path = repository.layout.history
        return read_history(path.read_bytes() if path.exists() else b"")


def roll_back(
    repository: Repository,
    name: str,
    digest: str,
    keep: Keep,
    *,
    clock: Callable[[], float] = time.time,
) -> Digest:
    """Point a tag back to a manifest that is still in the repository, and hold it there.

    ``digest`` may be its first digits.  Raises `DuccmakeError` with what there is
    where it names none or several.
    """
    layout = repository.layout
    with repository.lock():
        present = repository.record(name)
        found = list(pasts(layout, name, lambda: _records(repository)))
        if present is not None and _matches(present.manifest, digest):
            target = present.manifest
            past = None
        else:
            past = _chosen(found, name, digest)
            target = past.record.manifest
        edits = Edits(layout.root)
        if past is not None:
            point(edits, layout, name, past, lambda: _configs(repository, name), keep)
        pin(edits, layout, name, target, clock())
        repository.edit(edits)
    return target


def lift(repository: Repository, name: str) -> None:
    """Let a tag follow its registry again; `DuccmakeError` where it is not held."""
    with repository.lock():
        edits = Edits(repository.layout.root)
        if not unpin(edits, repository.layout, name):
            held = ", ".join(pins(repository)) or "none"
            raise DuccmakeError(f"{name} is not pinned; pinned are: {held}", step="unpin")
        repository.edit(edits)


def in_words(name: str, held: Pin, registry: Digest | None) -> str:
    """What to say of a tag that is held."""
    moved = f"; its registry has {registry.short}" if registry not in (None, held.manifest) else ""
    return (
        f"pinned to {held.manifest.short} since {timestamp(held.since)}{moved}; "
        f"'snakemake unpin --config image={name}' lifts it"
    )


def _chosen(found: Sequence[Past], name: str, digest: str) -> Past:
    matching = [past for past in found if _matches(past.record.manifest, digest)]
    if len({past.record.manifest for past in matching}) == 1:
        return matching[0]
    known: dict[Digest, str] = {}
    for past in found:
        known.setdefault(past.record.manifest, past.known)
    there = "; ".join(f"{manifest} ({how})" for manifest, how in known.items()) or "none"
    what = f"{len(matching)} manifests match {digest!r}" if digest else "no digest is given"
    raise DuccmakeError(
        f"{name}: {what}; still in the repository are: {there}",
        step="rollback",
        mend="give one of these as 'digest'; any other can be wished for by its digest, "
        "and be gone back to when it is published",
    )


def _matches(manifest: Digest, digest: str) -> bool:
    digits = digest.rpartition(":")[2]
    return len(digits) >= _FEWEST_DIGITS and manifest.hex.startswith(digits)


def _records(repository: Repository) -> Iterator[ImageRecord]:
    for name in repository.names():
        if (record := repository.record(name)) is not None:
            yield record


def _configs(repository: Repository, name: str) -> dict[str, str]:
    found = (repository.description(other) for other in repository.names() if other != name)
    return {record.name: str(record.config) for record in found if record is not None}
