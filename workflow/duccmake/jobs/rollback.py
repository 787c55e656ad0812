"""Pointing a tag back to a digest that it left, and lifting the pin."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from ..config.configuration import Config
from ..errors import DuccmakeError
from ..oci.reference import Digest
from ..planning.plan import Plan, repositories
from ..repository.edits import Edits
from ..repository.layout import split_variant
from ..repository.model import ImageRecord, Keep
from ..repository.open import open_repository
from ..repository.pins import Past, pasts, pin, pins_of, point, unpin
from ..repository.protocol import Repository
from ..repository.removal_schedule import timestamp

_FEWEST_DIGITS = 6


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
    view = repository.view
    with repository.lock():
        present = repository.record(name)
        found = list(pasts(view, name, lambda: _records(repository)))
        if present is not None and _matches(present.manifest, digest):
            target = present.manifest
            past = None
        else:
            past = _chosen(found, name, digest)
            target = past.record.manifest
        edits = Edits(view)
        if past is not None:
            point(edits, name, past, lambda: _configs(repository, name), keep)
        pin(edits, name, target, clock())
        repository.edit(edits)
    return target


def choices(repository: Repository, name: str, grace: float) -> dict[Digest, str]:
    """What a tag can be pointed back to, in words: first what it was, the latest first.

    ``grace`` is for how many seconds what nothing uses is kept.
    """
    with repository.reading():
        return _known(list(pasts(repository.view, name, lambda: _records(repository))), grace)


def lift(repository: Repository, name: str) -> None:
    """Let a tag follow its registry again; `DuccmakeError` where it is not held."""
    with repository.lock():
        edits = Edits(repository.view)
        if not unpin(edits, name):
            held = ", ".join(pins_of(repository)) or "none"
            raise DuccmakeError(f"{name} is not pinned; pinned are: {held}", step="unpin")
        repository.edit(edits)


def _chosen(found: Sequence[Past], name: str, digest: str) -> Past:
    matching = [past for past in found if _matches(past.record.manifest, digest)]
    if len({past.record.manifest for past in matching}) == 1:
        return matching[0]
    there = "; ".join(f"{manifest} ({how})" for manifest, how in _known(found).items()) or "none"
    raise DuccmakeError(
        f"{name}: {len(matching)} manifests match {digest!r}; still in the repository are: {there}",
        step="rollback",
        hint="give one of these as 'digest'; any other can be wished for by its digest, "
        "and be gone back to when it is published",
    )


def _known(found: Sequence[Past], grace: float = 0) -> dict[Digest, str]:
    known: dict[Digest, str] = {}
    for past in sorted(found, key=lambda past: past.left, reverse=True):
        known.setdefault(past.record.manifest, _in_words(past, grace))
    return known


def _in_words(past: Past, grace: float) -> str:
    if not past.left:
        return f"another name's: {past.shown}"
    left = f"this tag's until {timestamp(past.left)}"
    if past.shown:
        return f"{left}, kept by history.keep"
    until = f", kept for certain until {timestamp(past.left + grace)}" if grace else ""
    return f"{left}{until}"


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


def repositories_with(plan: Plan, config: Config, image: str) -> list[Repository]:
    """The repositories that have an image of this name; `DuccmakeError` where none has."""
    opened = [open_repository(config.repository, name) for name in repositories(plan)]
    found = [repository for repository in opened if image and repository.description(image)]
    if not found:
        several = sorted(
            {
                name
                for repository in opened
                for name in repository.names()
                if name != image and split_variant(name)[1] == image
            }
        )
        raise DuccmakeError(
            f"no repository has the image {image!r}" if image else "no image is named",
            hint=f"it is there for several platforms, name one: {', '.join(several)}"
            if several
            else "name it as the repository does: --config image=docker.io/library/app:1",
        )
    return found
