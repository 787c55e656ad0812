"""What podman without root can do with images of the store, and what not: as docs/ has it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.repository.directory.backend import DirectoryRepository
from support import pipeline, podman_client
from support.images import LayerBuilder
from support.podman_client import Driver, Podman, podman

APP, BARE = (f"registry.example.org/team/{name}:1" for name in ("app", "bare"))
TRUE = ("/bin/busybox", "true")


@pytest.fixture(scope="module")
def published() -> Iterator[Path]:
    """A repository that root has published, and a place for everybody beside it."""
    podman_client.need_podman()
    base = Path(tempfile.mkdtemp(prefix="published"))
    base.chmod(0o755)
    repository = DirectoryRepository(base / "cvmfs", "images.example.org", durable=False)
    bare = LayerBuilder().whiteout("etc/mtab").layer()
    below = podman_client.base_layer()
    for name, image in ((APP, Image((below,))), (BARE, Image((below, bare)))):
        staging = base / f"staging-{image.digest.short}"
        staged = pipeline.stage(name, image, staging, ("layers", "podman"))
        with repository.lock():
            repository.publish(pipeline.change_set([staged], staging))
    (base / "build").mkdir()
    (base / "build/added").write_text("added\n")
    try:
        with podman_client.another_user():
            yield base
    finally:
        shutil.rmtree(base)


@pytest.fixture(params=["kernel", "fuse"])
def driver(request: pytest.FixtureRequest) -> Driver:
    found: Driver = request.param
    return found


@pytest.fixture
def client(published: Path, driver: Driver) -> Iterator[Podman]:
    store = published / "cvmfs/images.example.org/podmanStore"
    with podman(store, driver=driver, rootless=True) as client:
        yield client


def refusal(work) -> str:
    """What is said where something does not work."""
    with pytest.raises(AssertionError) as caught:
        work()
    return str(caught.value)


def written(client: Podman, path: str) -> str:
    script = f"echo w > {path} && /bin/busybox cat {path}"
    return client.inside(APP, "/bin/busybox", "sh", "-c", script)


def test_containers_write_anywhere_with_fuse_overlayfs_alone(client: Podman, driver: Driver):
    assert written(client, "/new") == "w"
    if driver == "fuse":
        assert written(client, "/etc/new") == "w"
        assert written(client, "/etc/old") == "w"
    else:
        assert "Permission denied" in refusal(lambda: written(client, "/etc/new"))
        assert "Permission denied" in refusal(lambda: written(client, "/etc/old"))


def test_image_without_etc_mtab_runs_with_fuse_overlayfs_alone(client: Podman, driver: Driver):
    if not client.can_run():
        pytest.skip("containers cannot run here")
    assert client.run(APP, *TRUE) == ""
    if driver == "fuse":
        assert client.run(BARE, *TRUE) == ""
    else:
        assert "creating /etc/mtab symlink" in refusal(lambda: client.run(BARE, *TRUE))


def test_commit_and_build_work_with_the_kernels_overlay_alone(
    client: Podman, driver: Driver, published: Path
):
    def commit(path: str) -> None:
        client.committed(APP, f"touch $tree/{path}", "localhost/committed:1")

    def build(path: str) -> None:
        recipe = published / "build/Containerfile"
        recipe.write_text(f"FROM {APP}\nCOPY added {path}\n")
        client("build", "--quiet", "--pull-never", "-t", "localhost/built:1", str(recipe.parent))

    if driver == "fuse":
        for work in (commit, build):
            assert "operation not permitted" in refusal(lambda work=work: work("added"))
        return
    commit("added")
    build("/added")
    for name in ("localhost/committed:1", "localhost/built:1"):
        assert client.inside(name, "/bin/busybox", "ls", "/added") == "/added"
    assert "Permission denied" in refusal(lambda: commit("etc/added"))
    assert "not permitted" in refusal(lambda: build("/etc/added"))
