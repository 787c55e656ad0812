"""Keeping what is staged within bounds: images are fetched as others get published."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from ..repository.protocol import Repository
from ..workspace.results import RESULTS

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


def staged_bytes(results: Path = RESULTS) -> int:
    """How much all layers that are staged unpacked to, as the unpacker noted it."""
    total = 0
    for summary in results.glob("*/layers/*/layer/.metadata/layer.json"):
        try:
            total += int(json.loads(summary.read_bytes())["diff_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # published and gone, or about to be found damaged
    return total


def wait_for_space(repositories: Iterable[Repository], limit: int) -> None:
    """Wait while more than ``limit`` bytes are staged and somebody is publishing.

    Who publishes makes room.  While nobody does, waiting would help nobody: what is
    missing may be what the next image needs.
    """
    watched = list(repositories)
    told = False
    while limit and any(each.is_locked() for each in watched) and staged_bytes() > limit:
        if not told:
            logger.info("%d bytes are staged: waiting for images to be published", staged_bytes())
            told = True
        time.sleep(_POLL_SECONDS)
