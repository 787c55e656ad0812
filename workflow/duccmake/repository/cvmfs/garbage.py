"""Garbage collection, as ``cvmfs_server gc`` has it, in a transaction that is nobody else's.

``cvmfs_server gc`` looks whether a transaction is open, and then sets the flag for its own,
whether or not it is there by now (seen with 2.12): a transaction that somebody has opened in
between it ends as its own, with the work in it and the mounts under it.  It also mounts the
repository anew, though nothing that is published changes.  So only the program that it calls
is called here, ``cvmfs_swissknife gc``.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ...cvmfs.storage import REFERENCES, STATUS, NotThere, Storage
from ...errors import RepositoryError
from .auto_tags import moment_of
from .publication import TEMPORARY
from .settings import ServerSettings
from .tools import Tools
from .transaction import Transactions

GATEWAY = Path("/usr/libexec/cvmfs-gateway")
"""What is there where a gateway runs."""

_KEPT = "3 days ago"


class Garbage:
    """What is stored for revisions that nobody needs, in the repository of ``transactions``."""

    def __init__(self, transactions: Transactions, storage: Storage) -> None:
        self._transactions = transactions
        self._settings = transactions.server.settings
        self._storage = storage
        self._tools = Tools(self._settings, self._settings.spool / "tmp")

    def collect(self, since: str = _KEPT) -> None:
        """Delete what only revisions have that are older than some words for date(1) say.

        `RepositoryError` where that is not allowed or fails, `RepositoryLocked` where somebody
        else is at work for too long.
        """
        self._check()
        moment = moment_of(since, "the time since which revisions are kept")

        def work() -> None:
            self._tools.collect_garbage(moment)
            self._storage.sync()
            self._note()

        self._transactions.alone(work, collecting=True)

    def _check(self) -> None:
        name = self._settings.name
        if self._settings.gateway:
            raise RepositoryError(
                f"nothing can be deleted through a gateway, and so no garbage of {name} collected",
                hint=f"run 'cvmfs_server gc {name}' where the gateway runs",
            )
        if GATEWAY.exists():
            raise RepositoryError(
                "a gateway runs on this machine, and garbage collection has to stop it meanwhile",
                hint=f"'cvmfs_server gc {name}' does so",
            )
        if not self._settings.is_on("CVMFS_GARBAGE_COLLECTION"):
            raise RepositoryError(
                f"garbage collection is not enabled for {name}",
                hint="set CVMFS_GARBAGE_COLLECTION=true in its server.conf",
            )
        check_references(self._settings, self._storage)
        try:
            self._storage.file(REFERENCES)
        except NotThere as error:
            raise RepositoryError(
                f"nothing tells which revisions there are: {error.found}",
                hint=f"have that noted anew: cvmfs_server gc {name}",
            ) from None

    def _note(self) -> None:
        """Note when that was: automatic garbage collection and monitoring go by it."""
        status = {}
        with suppress(NotThere, ValueError):
            status = json.loads(self._storage.file(STATUS))
        if not isinstance(status, dict):
            status = {}
        status["last_gc"] = time.strftime("%a %b %e %H:%M:%S UTC %Y", time.gmtime())
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self._tools.directory) as made:
            file = Path(made, "status.json")
            file.write_text(json.dumps(status, indent=2) + "\n")
            self._tools.give_away(made)
            self._tools.upload(file, STATUS)


def check_references(settings: ServerSettings, storage: Storage) -> None:
    """`RepositoryError` where garbage collection would not learn of what is signed."""
    checksum = settings.spool / "reflog.chksum"
    if checksum.exists():
        return
    with suppress(NotThere):
        storage.file(REFERENCES)
        raise RepositoryError(
            f"{checksum} is missing, without which garbage collection learns of no revision",
            hint=f"have it made anew: cvmfs_server check -r {settings.name}",
        )
