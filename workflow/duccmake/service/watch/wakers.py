"""What wakes the watcher: a file of a wish list that changed, a notice in the queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import watchfiles

logger = logging.getLogger(__name__)

_STEP_MS = 20
"""After so long without a further change, a change is told."""

_DEBOUNCE_MS = 100
"""A change is told after so long at the latest."""


async def watch_files(
    wish_lists: Iterable[Path],
    notices: Path,
    *,
    changed: Callable[[], None],
    noticed: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """Call ``changed`` and ``noticed`` when a wish list or the queue changes, until ``stop``.

    Folders are watched, so that files may be replaced by renaming; a folder that is
    not there is left to the poll.
    """
    files = {_absolute(path) for path in wish_lists}
    queue = _absolute(notices)
    folders = {path.parent for path in files} | {queue}
    present = [folder for folder in folders if folder.is_dir()]
    async for changes in watchfiles.awatch(
        *present,
        watch_filter=None,
        debounce=_DEBOUNCE_MS,
        step=_STEP_MS,
        recursive=False,
        stop_event=stop,
        raise_interrupt=False,
    ):
        paths = [Path(path) for _, path in changes]
        if any(path in files for path in paths):
            logger.info("a wish list has changed")
            changed()
        if any(path.parent == queue and not path.name.startswith(".") for path in paths):
            noticed()


def _absolute(path: Path) -> Path:
    """The path as the kernel tells it: its folder's links resolved, not its own."""
    return path.parent.resolve() / path.name
