"""Garbage collection after a publication, as ``cvmfs_server publish`` does it where it is on."""

from __future__ import annotations

import json

from ...cvmfs.storage import STATUS, NotThere, Storage
from ...errors import RepositoryError
from .auto_tags import moment_of
from .others import COLLECTING_LOCK, is_flocked
from .settings import ServerSettings

_LAPSE = "1 day ago"
_TIMESPAN = "3 days ago"


def timespan_if_due(settings: ServerSettings, storage: Storage) -> str:
    """Since when garbage is kept, in words for date(1); empty where none is to be collected now.

    `RepositoryError` where the settings are nothing that date(1) understands.
    """
    if not (settings.is_on("CVMFS_GARBAGE_COLLECTION") and settings.is_on("CVMFS_AUTO_GC")):
        return ""
    lapse = settings.values.get("CVMFS_AUTO_GC_LAPSE") or _LAPSE
    if is_flocked(settings.spool / COLLECTING_LOCK):
        return ""  # a check takes its time, and there will be another publication
    timespan = settings.values.get("CVMFS_AUTO_GC_TIMESPAN") or _TIMESPAN
    moment_of(timespan, "CVMFS_AUTO_GC_TIMESPAN")
    deadline = moment_of(lapse, "CVMFS_AUTO_GC_LAPSE")
    return timespan if _last(storage) < deadline else ""


def _last(storage: Storage) -> int:
    """When garbage was collected last; as if never where that cannot be told."""
    try:
        status = json.loads(storage.file(STATUS))
        return moment_of(status["last_gc"], "last_gc") if status["last_gc"] else 0
    except (NotThere, ValueError, KeyError, TypeError, RepositoryError):
        return 0
