"""CernVM-FS' own programs that a commit by catalogs calls: ``cvmfs_swissknife`` and ``cvmfs_talk``.

They hold the keys and know the formats of tags, the log of references and signatures.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import NoSpace, RepositoryError
from .settings import ServerSettings

log = logging.getLogger(__name__)

KEYS = Path("/etc/cvmfs/keys")
_SWISSKNIFE = "cvmfs_swissknife"
_TAGS_A_CALL = 100
_FULL = re.compile(r"No space left|disk is full|\b(?:code|errno): 28\b")
"""What the programs say where the disk is full; 28 is the number of that error on Linux."""


class Tools:
    """The programs for one repository, run as its owner; ``directory`` is where they may write."""

    def __init__(self, settings: ServerSettings, directory: Path) -> None:
        self._settings = settings
        self.directory = directory
        self._owner: pwd.struct_passwd | None = None
        if os.geteuid() == 0 and settings.owner != "root":
            try:
                self._owner = pwd.getpwnam(settings.owner)
            except KeyError:
                raise RepositoryError(
                    f"the owner of {settings.name}, {settings.owner!r}, is no user of this machine",
                    hint="set CVMFS_USER in the repository's server.conf",
                ) from None

    def give_away(self, what: int | str | Path) -> None:
        """Make the repository's owner the owner of a file."""
        if self._owner is not None:
            os.chown(what, self._owner.pw_uid, self._owner.pw_gid)

    def add_tag(self, manifest: Path, tag: str) -> None:
        """Add a tag for the manifest's root, and move those that rollback goes by."""
        self._edit_tags(manifest, "-x", *(("-a", tag) if tag else ()))

    def remove_tags(self, manifest: Path, tags: Sequence[str]) -> None:
        """Remove tags; what they were in is noted, for garbage collection to find it."""
        for at in range(0, len(tags), _TAGS_A_CALL):
            self._edit_tags(manifest, "-d", " ".join(tags[at : at + _TAGS_A_CALL]))
        self.sign(manifest, early=True)

    def sign(self, manifest: Path, *, early: bool = False) -> None:
        """Sign a manifest and publish it; ``early`` only notes what it refers to."""
        settings = self._settings
        name = settings.name
        options = ["-e"] if early else []
        if settings.is_on("CVMFS_GARBAGE_COLLECTION"):
            options.append("-g")
        if settings.is_on("CVMFS_CATALOG_ALT_PATHS"):
            options.append("-A")
        checksum = settings.spool / "reflog.chksum"
        if checksum.exists():
            options += ["-R", str(checksum)]
        keys = ["-c", str(KEYS / f"{name}.crt"), "-k", str(KEYS / f"{name}.key")]
        where = ["-u", settings.url, "-r", settings.upstream, "-t", str(self.directory)]
        self._swissknife("sign", *keys, "-n", name, *where, "-m", str(manifest), *options)

    def collect_garbage(self, since: int) -> None:
        """Delete what only revisions need from before some moment, in seconds since the epoch."""
        settings = self._settings
        whose = ["-n", settings.name, "-k", str(KEYS / f"{settings.name}.pub")]
        where = ["-r", settings.url, "-u", settings.upstream, "-t", str(self.directory)]
        options = settings.values.get("CVMFS_SERVER_FLAGS", "").split()
        if log_file := settings.values.get("CVMFS_GC_DELETION_LOG"):
            options += ["-L", log_file]
        if settings.is_on("CVMFS_UPLOAD_STATS_DB"):
            options.append("-I")
        checksum = ["-R", str(settings.spool / "reflog.chksum")]
        self._swissknife("gc", *whose, *where, *checksum, "-z", str(since), *options)

    def upload(self, file: Path, name: str) -> None:
        """Store one of the files that are no objects."""
        self.give_away(file)
        self._run(_SWISSKNIFE, "upload", "-r", self._settings.upstream, "-i", str(file), "-o", name)

    def chroot(self, root: str) -> None:
        """Have this machine's mount show the revision of a root catalog, in hex."""
        self._run("cvmfs_talk", "-p", str(self._settings.spool / "cvmfs_io"), "chroot", root)

    def _edit_tags(self, manifest: Path, *options: str) -> None:
        settings = self._settings
        where = ["-r", settings.upstream, "-w", settings.url, "-t", str(self.directory)]
        whose = ["-p", str(KEYS / f"{settings.name}.pub"), "-f", settings.name, "-e", "sha1"]
        redirects = ["-L"] if settings.values.get("CVMFS_FOLLOW_REDIRECTS") == "yes" else []
        self._swissknife("tag_edit", *where, "-m", str(manifest), *whose, *redirects, *options)

    def _swissknife(self, *arguments: str) -> None:
        proxy = self._settings.values.get("CVMFS_SERVER_PROXY", "")
        self._run(_SWISSKNIFE, *arguments, *(("-@", proxy) if proxy else ()))

    def _run(self, program: str, *arguments: str) -> None:
        path = shutil.which(program)
        if path is None:
            raise RepositoryError(
                f"{program} is not on the PATH",
                hint="install cvmfs-server on this machine, or run duccmake on the stratum 0",
            )
        user: dict[str, Any] = {}
        if self._owner is not None:
            owner = self._owner
            groups = os.getgrouplist(owner.pw_name, owner.pw_gid)
            user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": groups}
        log.debug("%s %s", program, " ".join(arguments))
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            cwd="/",
            start_new_session=True,
            close_fds=False,  # what is to be inherited is the lock of who publishes
            check=False,
            **user,
        )
        if done.returncode:
            said = " | ".join(line.strip() for line in done.stdout.splitlines() if line.strip())
            ended = (
                f"'{program} {arguments[0]}' ended with status {done.returncode}: "
                f"{said[-1000:] or 'without a word'}"
            )
            if _FULL.search(said):
                raise NoSpace(
                    f"no space left in the repository's storage: {ended}",
                    hint="make room there and run again",
                )
            raise RepositoryError(ended)
