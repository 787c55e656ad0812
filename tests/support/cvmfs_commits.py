"""Publishing into a real CernVM-FS repository by catalogs and objects: no more than tests need."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from duccmake.cvmfs.changes import Changes, Root
from duccmake.cvmfs.manifest import Manifest
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.revision import Revision
from duccmake.cvmfs.storage.local import LocalStorage
from support.cvmfs_repositories import Real

_KEYS = Path("/etc/cvmfs/keys")


def storage_of(repository: Real) -> LocalStorage:
    """The storage of a repository of `RealRepositories`."""
    directory = repository.base / repository.name
    return LocalStorage(directory, directory / "data" / "txn")


def newest(repository: Real) -> Revision:
    """Its newest revision."""
    storage = storage_of(repository)
    return Revision(storage, Manifest.parse(storage.manifest()).root)


def commit(repository: Real, objects: Objects, change: Callable[[Changes], None]) -> Root:
    """Publish what ``change`` makes of the newest revision, within a transaction."""
    repository.server("transaction", repository.name)
    storage = storage_of(repository)
    manifest = Manifest.parse(storage.manifest())
    with Revision(storage, manifest.root) as revision:
        changes = Changes(revision, objects, int(time.time()))
        change(changes)
        root = changes.finish()
    for name in objects.names:
        storage.put(name, objects.path(name))
    storage.sync()
    changed = manifest.changed(
        C=root.hash.hex(), B=str(root.size), S=str(root.revision), D=str(root.ttl)
    )
    _sign(repository, changed)
    local = repository.spool / "client.local"
    kept = re.sub(r"CVMFS_ROOT_HASH=.*\n?", "", local.read_text())
    local.write_text(f"{kept}CVMFS_ROOT_HASH={root.hash.hex()}\n")
    repository.server("abort", "-f", repository.name)
    return root


def _sign(repository: Real, manifest: Manifest) -> None:
    settings = (repository.server_config / repository.name / "server.conf").read_text()
    values = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", settings, re.MULTILINE))
    name, url = repository.name, values["CVMFS_STRATUM0"]
    temporary = repository.spool / "tmp"
    file = temporary / "manifest-of-a-test"
    file.write_bytes(manifest.unsigned())
    common = ["-r", values["CVMFS_UPSTREAM_STORAGE"], "-t", str(temporary), "-m", str(file)]
    key = [f"{_KEYS / name}.pub"]
    _run("tag_edit", *common, "-w", url, "-p", *key, "-f", name, "-e", "sha1", "-x")
    signing = ["-c", f"{_KEYS / name}.crt", "-k", f"{_KEYS / name}.key", "-n", name, "-u", url]
    reflog = repository.spool / "reflog.chksum"
    if reflog.exists():
        signing += ["-R", str(reflog)]
    if values.get("CVMFS_GARBAGE_COLLECTION") == "true":
        signing.append("-g")
    _run("sign", *common, *signing)


def _run(what: str, *arguments: str) -> None:
    done = subprocess.run(
        ["cvmfs_swissknife", what, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
