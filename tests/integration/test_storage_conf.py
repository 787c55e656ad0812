"""podman with the storage.conf that is documented, of a tree that clients see elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.repository.directory.backend import DirectoryRepository
from support import pipeline, podman_client
from support.images import LayerBuilder
from support.podman_client import USER, Podman
from support.runs import CHECKOUT
from support.samples import AMD64

NAME = "docker.io/library/debian:12"
PAGE = (CHECKOUT / "docs/using-images.md").read_text()


class Documented(Podman):
    """podman without any option: all is in its storage.conf."""

    def _options(self) -> list[str]:
        return []

    def _start(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        where = [] if self.rootless else [f"CONTAINERS_STORAGE_CONF={self.base}/storage.conf"]
        return super()._start(["env", *where, *command])

    def configure(self, mounted: Path) -> None:
        """Write what the documentation shows for root, or for others, with places of the test."""
        shown = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[self.rootless]
        for place, here in {
            "/cvmfs/": f"{mounted}/",
            "/run/containers/storage": f"{self.base}/state",
            "/var/lib/containers/storage": f"{self.base}/root",
        }.items():
            shown = shown.replace(place, here)
        home = self.base / "home/.config/containers"
        home.mkdir(parents=True)
        for path in (self.base / "storage.conf", home / "storage.conf"):
            path.write_text(shown)
        if self.rootless:
            subprocess.run(["chown", "-R", f"{USER}:{USER}", self.base / "home"], check=True)


@pytest.fixture
def mounted() -> Iterator[Path]:
    """Where clients see an image that was published elsewhere."""
    podman_client.need_podman()
    with tempfile.TemporaryDirectory(prefix="podman") as name:
        base = Path(name)
        base.chmod(0o755)
        clients = base / "clients"
        repository = DirectoryRepository(
            base / "srv", "unpacked.example.org", durable=False, clients_root=clients
        )
        content = LayerBuilder().dir("etc").file("etc/os-release", "Debian").layer()
        image = Image((podman_client.base_layer(), content), {}, platform=AMD64)
        products = ("layers", "flat", "podman")
        staged = pipeline.stage(NAME, image, base / "staging", products)
        with repository.lock():
            repository.publish(pipeline.change_set([staged], base / "staging"))
        (base / "srv").rename(clients)
        yield clients


@pytest.mark.parametrize("rootless", [False, True])
def test_podman_has_the_images_by_the_storage_conf_that_is_shown(mounted: Path, rootless: bool):
    with ExitStack() as stack:
        if rootless:
            stack.enter_context(podman_client.another_user())
        base = Path(tempfile.mkdtemp(prefix="podman"))
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        base.chmod(0o755)
        client = Documented(base / "c", None, "fuse" if rootless else "kernel", rootless)
        stack.callback(client.clean)
        (base / "c").chmod(0o755)
        client.configure(mounted)
        assert {name for names in client.images().values() for name in names} == {NAME}
        assert client.inside(NAME, "/bin/busybox", "cat", "/etc/os-release") == "Debian"
