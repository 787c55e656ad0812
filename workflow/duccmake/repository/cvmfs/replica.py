"""A CernVM-FS repository as its web servers show it: the stratum 0, or a replica."""

from __future__ import annotations

from pathlib import Path

from ...cvmfs.storage.http import HttpStorage
from ...cvmfs.trust import Trust
from ..layout import Layout
from ..reader import PublishedTree
from .revision_view import RevisionView
from .settings import MOUNTS

_SECONDS = 20.0


class Replica(PublishedTree):
    """What stands at ``url``, below the directory ``prefix`` of the repository if not its root.

    The repository is called as the address ends, as those of CernVM-FS do.  With the master
    key in the file ``key`` its manifest is held to that, as clients do.
    """

    def __init__(self, url: str, key: Path | None = None, prefix: str = "") -> None:
        super().__init__(MOUNTS, url.rstrip("/").rpartition("/")[2], variant_links=True)
        prefix = prefix.strip("/")
        self._newest = RevisionView(
            HttpStorage(url, seconds=_SECONDS, tries=1),
            Layout(MOUNTS / self.name / prefix, variant_links=True),
            prefix,
            trust=Trust(self.name, key) if key else None,
        )
        self._view = self._newest

    @property
    def revision(self) -> int:
        """The number of the revision that is shown."""
        return self._newest.number

    def renew(self) -> None:
        """Show what is newest from now on."""
        self._newest.renew()
