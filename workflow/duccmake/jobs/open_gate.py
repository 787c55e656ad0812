"""Keeping what is staged within bounds: images are fetched as others get published."""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from pathlib import Path

from ..workspace.results import RESULTS
from ..workspace.run_lock import somebody_works

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5

_IDLE_SECONDS = 5.0
"""So long nobody has to be at work: from one job to the next it takes a moment."""


def staged_bytes(results: Path = RESULTS) -> int:
    """How much is fetched and not yet published: blobs, and layers as the unpacker noted them."""
    total = 0
    for summary in results.glob("*/layers/*/layer/.metadata/layer.json"):
        try:
            total += int(json.loads(summary.read_bytes())["diff_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # published and gone, or about to be found damaged
    for blob in results.glob("blobs/*"):
        with suppress(OSError):
            total += blob.stat().st_size
    return total


def wait_for_space(limit: int, workdir: Path = Path()) -> None:
    """Wait while more than ``limit`` bytes are staged and any other job is at work.

    All that images before this gate need may be fetched without it, so others make room as long
    as they work.  When nobody does, what is staged belongs to images that failed, or to one that
    is larger than the limit, and waiting would help nobody.
    """
    told, seen = False, time.monotonic()
    while limit and (staged := staged_bytes(workdir / RESULTS)) > limit:
        if not told:
            logger.info("%d bytes are staged: waiting for images to be published", staged)
            told = True
        if somebody_works(workdir):
            seen = time.monotonic()
        elif time.monotonic() - seen > _IDLE_SECONDS:
            break
        time.sleep(_POLL_SECONDS)
