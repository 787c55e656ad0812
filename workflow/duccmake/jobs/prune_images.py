"""Taking away the names of images that leave a repository."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

from ..oci.reference import Digest
from ..planning.model import Departure
from ..planning.removal import check_share, published
from ..repository import podman
from ..repository.audit import Audit
from ..repository.edits import Edits
from ..repository.foreign import take_out
from ..repository.inventory import survey
from ..repository.protocol import Repository
from ..repository.removal import withdraw

logger = logging.getLogger(__name__)


def prune(
    repository: Repository,
    departures: Sequence[Departure],
    *,
    max_percent: float,
    force: bool,
    clock: Callable[[], float] = time.time,
) -> list[Departure]:
    """Take away names and metadata of images that leave; returns those that left.

    An image that was published anew since the departure was decided stays.  Raises
    `DuccmakeError`, with nothing removed, where too many would leave at once.
    """
    with repository.lock():
        total = sum(1 for _ in repository.names())
        check_share(departures, total, max_percent=max_percent, force=force)
        going = [item for item in departures if published(repository, item.name) == item.manifest]
        edits = Edits(repository.view)
        leaving = {item.name: item.why for item in going}
        withdraw(edits, leaving, survey(repository.view), clock())
        repository.edit(edits)
    for item in going:
        logger.info("%s left: %s", item.name, item.why)
    return going


def refuse(
    repository: Repository,
    refused: Sequence[Departure],
    altered: Collection[Digest] = (),
    *,
    clock: Callable[[], float] = time.time,
) -> list[Departure]:
    """Take away what is published and not what it says; returns the images that left.

    One without a manifest stays.  podman's store loses the layers that are not what they
    stand for, and with them what has them there; ``altered`` layers lose the files that
    are other images'.
    """
    view = repository.view
    with repository.lock():
        going = [
            item
            for item in refused
            if item.manifest and published(repository, item.name) == item.manifest
        ]
        edits = Edits(view)
        leaving = {item.name: item.why for item in going}
        if leaving:
            withdraw(edits, leaving, survey(view), clock(), for_good=True)
        podman.expel(edits, Audit(view).mistaken_layers())
        repository.edit(edits)
        if altered:
            take_out(repository, altered)
    for item in going:
        logger.warning("%s is not what it says and was taken away: %s", item.name, item.why)
    return going
