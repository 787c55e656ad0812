"""Publishing into a CernVM-FS repository by catalogs and objects, as the backend does it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from duccmake.cvmfs.changes import Changes, Root
from duccmake.cvmfs.manifest import Manifest
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.revision import Revision
from duccmake.cvmfs.storage import PUBLISHED
from duccmake.cvmfs.storage.local import LocalStorage
from duccmake.repository.cvmfs.mount import Mount
from duccmake.repository.cvmfs.publication import Publication
from duccmake.repository.cvmfs.server import Server
from duccmake.repository.cvmfs.settings import ServerSettings
from duccmake.repository.cvmfs.tools import Tools
from duccmake.repository.cvmfs.transaction import Transactions
from support.cvmfs_repositories import Real, StandIn

Change = Callable[[Changes], None]


def settings_of(repository: Real | StandIn) -> ServerSettings:
    """What the repository's server.conf says."""
    return ServerSettings.read(repository.name, repository.server_config)


def storage_of(repository: Real | StandIn) -> LocalStorage:
    """Its storage."""
    return LocalStorage.parse(settings_of(repository).upstream)


def manifest_of(repository: Real | StandIn) -> Manifest:
    """What its newest revision is."""
    return Manifest.parse(storage_of(repository).file(PUBLISHED))


def newest(repository: Real | StandIn) -> Revision:
    """Its newest revision."""
    return Revision(storage_of(repository), manifest_of(repository).root)


def publication_of(repository: Real | StandIn) -> Publication:
    """What publishes root catalogs there."""
    settings = settings_of(repository)
    tools = Tools(settings, settings.spool / "tmp")
    return Publication(settings, storage_of(repository), tools)


def transactions_of(repository: Real | StandIn, seconds: float = 0) -> Transactions:
    """Transactions there, that wait for others for some seconds."""
    settings = settings_of(repository)
    state = settings.spool / "duccmake"
    state.mkdir(exist_ok=True)
    mount = Mount(settings.published, settings.name, state / "mount.lock")
    return Transactions(Server(settings, state), state, seconds, mount)


def staged(repository: Real | StandIn, objects: Objects, change: Change) -> tuple[bytes, Root]:
    """Store what ``change`` makes of the newest revision: its manifest, and the new root."""
    storage = storage_of(repository)
    base = storage.file(PUBLISHED)
    with Revision(storage, Manifest.parse(base).root) as revision:
        changes = Changes(revision, objects, int(time.time()))
        change(changes)
        root = changes.finish()
    for name in objects.names:
        storage.put_all(objects.directory, [name])
    return base, root


def commit(
    repository: Real | StandIn, objects: Objects, change: Change, *, seconds: float = 0
) -> Root:
    """Publish what ``change`` makes of the newest revision, alone with the repository."""
    publication = publication_of(repository)
    roots = []

    def work() -> None:
        base, root = staged(repository, objects, change)
        publication.publish(base, root)
        publication.show(root)
        roots.append(root)

    transactions_of(repository, seconds).alone(work)
    return roots[0]


def commit_file(repository: Real | StandIn, base: Path, name: str, *, seconds: float = 0) -> Root:
    """Publish a file that has its name as its content; ``base`` is a directory for objects."""
    base.mkdir(exist_ok=True)

    def change(changes: Changes) -> None:
        changes.put_file(f"/{name}".encode(), name.encode())

    return commit(repository, Objects(base), change, seconds=seconds)
