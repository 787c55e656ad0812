"""What docs/using-images.md says of machines that mount a repository, on the real CernVM-FS."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from support import pipeline, podman_client
from support.cvmfs_repositories import Real, both, client, repository_for
from support.logs import told
from support.podman_client import podman
from support.staged_trees import TOP, file, flat_of, publish, stage

pytestmark = pytest.mark.cvmfs

APP = "registry.example.org/team/app:1"


@pytest.fixture
def cvmfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Real:
    (parameters,) = both()[1].values
    found = repository_for(parameters, tmp_path, monkeypatch)
    assert isinstance(found, Real)
    return found


@pytest.mark.parametrize("claim", ["yes", "no"])
def test_files_have_their_owners_where_clients_do_not_claim_them(cvmfs, tmp_path, claim):
    repository = cvmfs.open()
    (tmp_path / "staging").mkdir()
    top = [*TOP, file("usr/bin-ping", b"p", 0o4755, uid=70_000, gid=5)]
    (image,) = publish(repository, stage(tmp_path / "staging", top=top))
    path = flat_of(repository, image).relative_to(repository.path) / "usr/bin-ping"
    with client(cvmfs, f"CVMFS_CLAIM_OWNERSHIP={claim}") as mount:
        found = (mount / path).stat()
    assert found.st_mode & 0o7777 == 0o4755
    assert (found.st_uid == 70_000) == (claim == "no")


def test_deleted_files_come_back_in_the_mount_that_a_stratum_0_writes_to(cvmfs, tmp_path):
    podman_client.need_podman()
    image = Image((podman_client.base_layer(), podman_client.top_layer().layer()))
    staging = tmp_path / "staging"
    staged = pipeline.stage(APP, image, staging, ("layers", "podman"), catalogs=True)
    repository = cvmfs.open()
    with repository.lock():
        repository.publish(pipeline.change_set([staged], staging))

    store = cvmfs.mounts / cvmfs.name / "podmanStore"
    command = ("/bin/busybox", "sh", "-c", "test -e /etc/old && echo back || echo gone")
    with podman(store) as on_the_stratum_0:
        assert on_the_stratum_0.inside(APP, *command) == "back"
    bind = f"mount --bind {cvmfs.spool}/rdonly {cvmfs.mounts}/{cvmfs.name}"
    with podman(store, before=bind) as with_what_is_published:
        assert with_what_is_published.inside(APP, *command) == "gone"


def test_who_keeps_a_copy_of_the_mount_is_named_while_it_is_waited_for(cvmfs, tmp_path):
    """As the process that rootless podman leaves behind does where mounts are private."""
    repository = cvmfs.open()
    (tmp_path / "staging").mkdir()
    changes = stage(tmp_path / "staging")
    keeping = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 600"]
    with (
        subprocess.Popen(keeping, stdout=subprocess.PIPE) as keeper,
        ThreadPoolExecutor() as pool,
        told("in a mount namespace of its own") as waiting,
    ):
        try:
            assert keeper.stdout is not None
            keeper.stdout.readline()
            done = pool.submit(publish, repository, changes)
            assert waiting.wait(120)
            assert not done.done()
        finally:
            keeper.kill()
        done.result(timeout=120)
    assert repository.verify(changes.images[0].name) == []
    assert os.path.ismount(cvmfs.spool / "rdonly")
