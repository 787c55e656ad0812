"""The podman store in CernVM-FS, as a client of it sees the repository."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.repository.edits import Edits
from duccmake.repository.inventory import survey
from duccmake.repository.removal import withdraw
from support import pipeline, podman_client
from support.cvmfs_repositories import Real, StandIn, both, repository_for
from support.images import LayerBuilder
from support.podman_client import Podman, podman

APP, REPEATED, THROUGH = (
    f"registry.example.org/team/{name}:1" for name in ("app", "repeated", "through")
)


@pytest.fixture(params=both())
def cvmfs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StandIn | Real:
    return repository_for(request.param, tmp_path, monkeypatch)


@pytest.fixture
def clients() -> Iterator[Path]:
    """What stands for /cvmfs on the machines of clients."""
    podman_client.need_podman()
    base = Path(tempfile.mkdtemp(prefix="clients"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@contextmanager
def mounted(cvmfs: StandIn | Real, clients: Path) -> Iterator[Path]:
    """The store in what is published, mounted as clients have it."""
    repository = clients / cvmfs.name
    repository.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", cvmfs.spool / "rdonly", repository], check=True)
    try:
        yield repository / "podmanStore"
    finally:
        subprocess.run(["umount", "--lazy", repository], check=True)


def look_at(client: Podman) -> None:
    """What the store has is there, and nothing that is deleted."""
    assert {name for names in client.images().values() for name in names} == {
        APP,
        REPEATED,
        THROUGH,
    }
    assert client.run(APP, "/bin/busybox", "find", "/opt").split() == ["/opt", "/opt/c"]
    again = client.run(REPEATED, "/bin/busybox", "find", "/opt").split()
    assert sorted(again) == ["/opt", "/opt/a", "/opt/b", "/opt/c"]
    through = client.run(THROUGH, "/bin/busybox", "find", "/opt", "/link").split()
    assert sorted(through) == ["/link", "/opt", "/opt/b", "/opt/d"]
    # It looks whether what it makes has the digests that are promised.
    client("save", "--format", "oci-dir", "--output", f"{client.base}/home/saved", APP)
    if not client.rootless:
        assert {"A /etc/new", "D /etc/old", "A /opt/c"} <= client.diff(APP)


def test_podman_uses_the_store_of_a_repository_in_cernvm_fs(
    cvmfs: StandIn | Real, clients: Path, tmp_path: Path
):
    base, top = podman_client.base_layer(), podman_client.top_layer().layer()
    link = LayerBuilder().symlink("link", "opt").layer()
    through = LayerBuilder().whiteout("link/a").file("link/d", "d\n").layer()
    images = {
        APP: Image((base, top)),
        REPEATED: Image((base, top, base)),
        THROUGH: Image((base, link, through)),
    }
    repository = cvmfs.open(clients_root=clients)
    staged = [
        pipeline.stage(
            name, image, tmp_path / "staging", ("layers", "flat", "podman"), catalogs=True
        )
        for name, image in images.items()
    ]
    with repository.lock():
        repository.publish(pipeline.change_set(staged, tmp_path / "staging"))
    with mounted(cvmfs, clients) as store, podman_client.another_user():
        for driver, rootless in (("kernel", False), ("fuse", False), ("fuse", True)):
            with podman(store, driver=driver, rootless=rootless) as client:
                look_at(client)
    with repository.lock():
        edits = Edits(repository.view)
        withdraw(edits, {APP: "test"}, survey(repository.view), 1.0)
        repository.edit(edits)
    with mounted(cvmfs, clients) as store, podman(store) as client:
        pinned = f"registry.example.org/team/app@{images[APP].digest}"
        assert {name for names in client.images().values() for name in names} == {
            REPEATED,
            THROUGH,
            pinned,
        }
    assert cvmfs.problems() == ""
