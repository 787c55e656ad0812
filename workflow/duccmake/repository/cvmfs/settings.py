"""What ``cvmfs_server`` is told of a repository: its ``server.conf``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...cvmfs.assignments import assignments
from ...errors import RepositoryError

REPOSITORIES = Path("/etc/cvmfs/repositories.d")
SPOOL = Path("/var/spool/cvmfs")
MOUNTS = Path("/cvmfs")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings that publishing depends on; sizes in bytes.

    ``spool`` is where ``cvmfs_server`` keeps its flags and mounts, ``union`` where a
    transaction can be written to, ``owner`` the user that publishes.
    A file larger than ``max_chunk`` is stored in several pieces by ``cvmfs_server
    publish`` where ``chunking`` is on.  ``values`` are all that ``server.conf`` assigns.
    """

    name: str
    spool: Path
    union: Path
    owner: str = "root"
    gateway: bool = False
    chunking: bool = True
    max_chunk: int = 16 * 1024 * 1024
    nanoseconds: bool = False
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def upstream(self) -> str:
        """Where its objects are stored, as ``CVMFS_UPSTREAM_STORAGE`` has it."""
        return self.values.get("CVMFS_UPSTREAM_STORAGE", "")

    @property
    def url(self) -> str:
        """Where the stratum 0 can be read over HTTP."""
        return self.values.get("CVMFS_STRATUM0", "")

    def is_on(self, key: str) -> bool:
        """Whether a setting that is off by default is on."""
        return self.values.get(key) == "true"

    @property
    def published(self) -> Path:
        """The mount of what is published.

        The union shows the changes of an open transaction, and does not show
        whiteouts, which overlayfs takes for its own.
        """
        return self.spool / "rdonly"

    @classmethod
    def read(cls, name: str, directory: Path = REPOSITORIES) -> ServerSettings:
        """Read ``server.conf``; `RepositoryError` where this machine does not publish ``name``."""
        path = directory / name / "server.conf"
        try:
            text = path.read_text(errors="surrogateescape")
        except OSError as error:
            raise RepositoryError(
                f"{path} cannot be read ({error.strerror}): this machine does not publish {name}",
                hint=f"make the repository with 'cvmfs_server mkfs {name}', or run duccmake "
                "where it is published",
            ) from None
        return cls.parse(name, assignments(text))

    @classmethod
    def parse(cls, name: str, values: Mapping[str, str]) -> ServerSettings:
        """The settings in ``values``, with CernVM-FS' defaults for what is not there."""
        return cls(
            name=name,
            spool=Path(values.get("CVMFS_SPOOL_DIR") or SPOOL / name),
            union=Path(values.get("CVMFS_UNION_DIR") or MOUNTS / name),
            owner=values.get("CVMFS_USER") or "root",
            gateway=values.get("CVMFS_UPSTREAM_STORAGE", "").startswith("gw,"),
            chunking=values.get("CVMFS_USE_FILE_CHUNKING", "true") == "true",
            max_chunk=_bytes(values.get("CVMFS_MAX_CHUNK_SIZE", "")) or 16 * 1024 * 1024,
            nanoseconds=values.get("CVMFS_ENABLE_MTIME_NS", "") == "true",
            values=values,
        )


def _bytes(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
