"""The tags that ``cvmfs_server publish`` gives revisions by itself, and takes away in time."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

from ...cvmfs.codec import decompress
from ...cvmfs.manifest import Manifest
from ...cvmfs.names import Kind
from ...cvmfs.storage import Storage
from ...errors import RepositoryError
from .settings import ServerSettings

_AUTO = re.compile(
    r"generic(_[0-9]+)?-[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,3})?Z\Z"
)


class AutoTags:
    """The automatic tags of a repository whose newest revision has ``manifest``."""

    def __init__(self, settings: ServerSettings, storage: Storage, manifest: Manifest) -> None:
        self._settings = settings
        self._times = _read(storage, manifest) if settings.is_on("CVMFS_AUTO_TAG") else {}

    def new(self) -> str:
        """The next tag; empty where revisions get none."""
        if not self._settings.is_on("CVMFS_AUTO_TAG"):
            return ""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        name, number = f"generic-{moment}", 1
        while name in self._times:
            name, number = f"generic_{number}-{moment}", number + 1
        return name

    def outdated(self) -> list[str]:
        """Those that are older than ``CVMFS_AUTO_TAG_TIMESPAN`` says, if it says anything."""
        timespan = self._settings.values.get("CVMFS_AUTO_TAG_TIMESPAN", "")
        if not timespan or not self._times:
            return []
        oldest = moment_of(timespan, "CVMFS_AUTO_TAG_TIMESPAN")
        return [name for name, at in self._times.items() if at < oldest and _AUTO.match(name)]


def moment_of(words: str, key: str) -> int:
    """What ``date --date`` makes of some words, in seconds since the epoch."""
    # The words are for GNU date, and nobody else reads all of them: "2 weeks ago".
    done = subprocess.run(
        ["date", "--date", words, "+%s"], capture_output=True, text=True, check=False
    )
    if done.returncode or not done.stdout.strip().lstrip("-").isdigit():
        raise RepositoryError(
            f"{key} is {words!r}, which date(1) does not understand",
            hint="write it like '2 weeks ago' in the repository's server.conf",
        )
    return int(done.stdout)


def _read(storage: Storage, manifest: Manifest) -> dict[str, int]:
    """All tags and their times."""
    history = manifest.get("H")
    if not history:
        return {}
    stored = storage.get(history + Kind.HISTORY)
    with tempfile.TemporaryDirectory(prefix="duccmake-") as directory:
        file = Path(directory, "history")
        file.write_bytes(decompress(stored))
        with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as database:
            return dict(database.execute("SELECT name, timestamp FROM tags"))
