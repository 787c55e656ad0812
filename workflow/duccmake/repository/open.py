"""Opening a repository with the backend that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .protocol import Repository
from .settings import RepositorySettings

if TYPE_CHECKING:
    from .cvmfs.staging import Staging


def open_repository(settings: RepositorySettings, name: str) -> Repository:
    """The repository of that name, in the backend of the settings."""
    # Jobs that fetch or unpack need none of them.
    if settings.backend == "cvmfs":
        from .cvmfs.backend import CvmfsRepository

        return CvmfsRepository(
            name,
            mounts=settings.mounts,
            server_config=settings.server_config,
            state=settings.state / name if settings.state else None,
            prefix=settings.prefix,
            lock_seconds=settings.lock_seconds,
            clients_root=settings.clients_root,
            publisher=settings.publisher,
            compression=settings.compression,
            hard_links=settings.hard_links,
            url=settings.url,
            public_key=settings.public_key,
        )
    from .directory.backend import DirectoryRepository

    return DirectoryRepository(
        settings.root,
        name,
        flat=settings.flat,
        lock_seconds=settings.lock_seconds,
        clients_root=settings.clients_root,
    )


def open_staging(settings: RepositorySettings, name: str) -> Staging | None:
    """How jobs stage catalogs for the repository of that name; None where they stage none."""
    if not settings.in_catalogs:
        return None
    from .cvmfs.staging import Staging

    return Staging(settings, name)
