"""Publishing a new root catalog, as ``cvmfs_server publish`` does once it has one.

In this order: old tags go and the new one comes (``cvmfs_swissknife tag_edit``); the manifest is
signed, by which the revision is published (``cvmfs_swissknife sign``); the mount of this machine is
told.  What the revision consists of is durable before that.  Nobody else may publish meanwhile
(`duccmake.repository.cvmfs.claim`).
"""

from __future__ import annotations

import logging
import re
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ...cvmfs.changes import Root
from ...cvmfs.manifest import Manifest
from ...cvmfs.names import Kind
from ...cvmfs.storage import PUBLISHED, WHITELIST, Storage
from ...errors import RepositoryError
from .auto_tags import AutoTags
from .server import ServerBusy
from .settings import ServerSettings
from .tools import Tools

log = logging.getLogger(__name__)

TEMPORARY = "duccmake-"
"""How directories begin that are made in the spool area for a manifest."""

_EXPIRY = re.compile(rb"^E([0-9]{14})$", re.MULTILINE)
_PIN = re.compile(rb"^CVMFS_ROOT_HASH=.*\n?", re.MULTILINE)


class Publication:
    """Publishes root catalogs of a repository whose objects are in ``storage``."""

    def __init__(self, settings: ServerSettings, storage: Storage, tools: Tools) -> None:
        self._settings = settings
        self._storage = storage
        self._tools = tools

    def check_whitelist(self) -> None:
        """`RepositoryError` where clients would refuse what is signed, as its time is over."""
        found = _EXPIRY.search(self._storage.file(WHITELIST))
        expiry = found and datetime.strptime(found[1].decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        if expiry is None or expiry <= datetime.now(UTC):
            name = self._settings.name
            when = f"expired at {expiry:%Y-%m-%d %H:%M} UTC" if expiry else "has no date of expiry"
            raise RepositoryError(
                f"the whitelist of {name} {when}, and clients refuse what is signed now",
                hint=f"sign it again: cvmfs_server resign {name}",
            )

    def publish(self, base: bytes, root: Root) -> None:
        """Publish a root catalog that was made of the revision with the manifest ``base``.

        All objects are in the storage, for good.  Raises `ServerBusy` where something has been
        published meanwhile, and `RepositoryError` where signing fails; nothing is published then.
        """
        manifest = Manifest.parse(base).changed(
            C=root.hash.hex(), B=str(root.size), S=str(root.revision), D=str(root.ttl)
        )
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self._tools.directory) as made:
            file = Path(made, "manifest")  # that of spool/tmp is resign's as well
            file.write_bytes(manifest.unsigned())
            self._tools.give_away(made)
            self._tools.give_away(file)
            tags = AutoTags(self._settings, self._storage, manifest)
            if outdated := tags.outdated():
                self._tools.remove_tags(file, outdated)
            self._tools.add_tag(file, tags.new())
            self._storage.sync_object(Manifest.parse(file.read_bytes()).get("H") + Kind.HISTORY)
            if self._storage.file(PUBLISHED) != base:
                # "cvmfs_server resign" asks nobody.
                raise ServerBusy("somebody else has published meanwhile, past all locks,")
            self._tools.sign(file)

    def show(self, root: Root) -> None:
        """Have this machine's mount show a revision that was just published.

        It is noted for whoever mounts it anew; that the mount changes over before makes that
        quick.  Nothing is raised, for the revision is published.
        """
        try:
            self._show(root)
        except OSError as error:
            log.warning("what was published is not shown here yet: %s", error)

    def _show(self, root: Root) -> None:
        path = self._settings.spool / "client.local"
        digest = root.hash.hex().encode()
        content = _PIN.sub(b"", path.read_bytes())
        if content and not content.endswith(b"\n"):
            content += b"\n"
        # In place, since cvmfs_server's user has to be its owner still.
        path.write_bytes(content + b"CVMFS_ROOT_HASH=%b\n" % digest)
        with suppress(RepositoryError):
            self._tools.chroot(root.hash.hex())
