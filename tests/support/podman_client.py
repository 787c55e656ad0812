"""Debian's podman and Buildah, with a storage of their own and an additional image store."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from support import oracles
from support.images import Layer, LayerBuilder

Driver = Literal["kernel", "fuse"]

USER = f"duccmake-test-{os.getpid()}"
"""Who runs podman without root; made when it is needed."""

_SUBIDS = "500000-565535"

# Programs that change users give up where another one is at it.
_ONE_AT_A_TIME = ("flock", "/run/lock/duccmake-test-users")

# crun wants one kind of cgroups, and podman a root whose mounts are shared.
_SANDBOX = """
umount --lazy /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
mount --make-rshared /
exec "$@"
"""

# Limits that a sandbox may not raise, and nothing that needs a network or systemd.
_RUN = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --cgroups disabled --network none"


@dataclass
class Podman:
    """podman with the kernel's overlay or with fuse-overlayfs, as root or as `USER`.

    Its own storage is below ``base``; ``store`` is the additional one.  ``before`` is what
    a shell does first, where nobody else sees its mounts.
    """

    base: Path
    store: Path | None
    driver: Driver = "kernel"
    rootless: bool = False
    before: str = "true"
    _runs: bool | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("home", "state", "root"):
            directory = self.base / name
            directory.mkdir(mode=0o700, parents=True)
            if self.rootless:
                shutil.chown(directory, USER, USER)

    def __call__(self, *arguments: str) -> str:
        """Run podman and return what it prints; `AssertionError` where it fails."""
        return self._output(["podman", *self._options(), *arguments])

    def buildah(self, *arguments: str) -> str:
        """Run Buildah over the same storage."""
        return self._output(["buildah", *self._options(), *arguments])

    def images(self) -> dict[str, set[str]]:
        """Ids of the images that the store has, each with its names."""
        listed = json.loads(self("images", "--format", "json") or "[]")
        return {
            image["Id"]: set(image.get("Names") or ()) for image in listed if image.get("ReadOnly")
        }

    def inspect(self, image: str) -> dict[str, Any]:
        """What ``podman image inspect`` says."""
        [found] = json.loads(self("image", "inspect", image))
        assert isinstance(found, dict)
        return found

    def diff(self, image: str) -> set[str]:
        """What ``podman image diff`` says: ``A /path``, ``C /path``, ``D /path``."""
        return set(self("image", "diff", image).splitlines())

    def run(self, image: str, *command: str) -> str:
        """Run a program of the image; in a changed root where containers cannot run here."""
        if self.can_run():
            return self("run", "--rm", *_RUN.split(), image, *command)
        return self.inside(image, *command)

    def can_run(self) -> bool:
        """Whether ``podman run`` works here: with an image of its own, of nothing but busybox."""
        if self._runs is None:
            with tempfile.TemporaryDirectory() as tree:
                _add_busybox(Path(tree))
                archive = self.base / "probe.tar"
                subprocess.run(["tar", "-cf", archive, "-C", tree, "."], check=True)
                archive.chmod(0o644)
            self("import", str(archive), "localhost/probe:1")
            probe = ["run", "--rm", *_RUN.split(), "localhost/probe:1", "/bin/busybox", "true"]
            done = self._start(["podman", *self._options(), *probe])
            self._runs = done.returncode == 0
        return self._runs

    def inside(self, image: str, *command: str) -> str:
        """Run a program in the root of a container that podman mounts."""
        podman = shlex.join(["podman", *self._options()])
        script = (
            f"container=$({podman} create --network none {shlex.quote(image)} /bin/true) && "
            f"tree=$({podman} mount $container) && chroot $tree {shlex.join(command)} && "
            f"{podman} rm --volumes $container >/dev/null"
        )
        return self._unshared(script)

    def committed(self, image: str, script: str, name: str) -> None:
        """Make an image with Buildah: ``script`` changes the tree of a container, ``$tree``."""
        buildah = shlex.join(["buildah", *self._options()])
        self._unshared(
            f"container=$({buildah} from --pull-never {shlex.quote(image)}) && "
            f"tree=$({buildah} mount $container) && {script} && "
            f"{buildah} commit --quiet --rm $container {shlex.quote(name)}"
        )

    def own_layers(self) -> list[dict[str, Any]]:
        """The layers of its own storage."""
        path = self.base / "root/overlay-layers/layers.json"
        layers: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.exists() else []
        return layers

    def _unshared(self, script: str) -> str:
        """Run a shell script; without root in the user namespace of podman's mounts."""
        enter = ["podman", *self._options(), "unshare"] if self.rootless else []
        return self._output([*enter, "sh", "-euc", script])

    def _options(self) -> list[str]:
        options = ["--root", f"{self.base}/root", "--runroot", f"{self.base}/state"]
        options += ["--storage-driver", "overlay"]
        if self.driver == "fuse":
            options += ["--storage-opt", "mount_program=/usr/bin/fuse-overlayfs"]
        if self.store is not None:
            options += ["--storage-opt", f"additionalimagestore={self.store}"]
        return options

    def _output(self, command: Sequence[str]) -> str:
        done = self._start(command)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr.strip()[-2000:]}"
        return done.stdout.strip()

    def _start(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": f"{self.base}/home",
            "XDG_RUNTIME_DIR": f"{self.base}/state",
        }
        become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"{self.before} || exit\n{_SANDBOX}", "sh"]
            + (become if self.rootless else [])
            + list(command),
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def clean(self) -> None:
        """Remove what it made; files of other owners too, and the keeper of its namespaces."""
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            # It would keep whatever was mounted when it began.
            os.kill(int((self.base / "state/libpod/tmp/pause.pid").read_text()), signal.SIGTERM)
        for name in ("root/overlay", "root"):
            subprocess.run(["umount", "--lazy", self.base / name], capture_output=True)
        shutil.rmtree(self.base, ignore_errors=True)


@contextmanager
def podman(
    store: Path | None,
    *,
    driver: Driver = "kernel",
    rootless: bool = False,
    before: str = "true",
) -> Iterator[Podman]:
    """podman as it is asked for, in a short path, which it insists on."""
    base = Path(tempfile.mkdtemp(prefix="podman"))
    base.chmod(0o755)
    client = Podman(base / "c", store, driver, rootless, before)
    try:
        yield client
    finally:
        client.clean()
        shutil.rmtree(base, ignore_errors=True)


def need_podman() -> None:
    """Skip where podman or root is missing."""
    for program in ("podman", "buildah", "busybox", "unshare", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} on PATH")
    if os.geteuid() != 0:
        pytest.skip("needs root: another user, mounts")


@contextmanager
def another_user() -> Iterator[None]:
    """Make `USER`, who has ids to give away in a namespace, for as long as it is needed."""
    for program in ("flock", "useradd", "newuidmap"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} on PATH")
    _do(*_ONE_AT_A_TIME, "useradd", "--system", "--user-group", "--no-create-home", USER)
    try:
        _do(*_ONE_AT_A_TIME, "usermod", "--add-subuids", _SUBIDS, "--add-subgids", _SUBIDS, USER)
        oracles.let_everybody_use_fuse()
        probe = ["setpriv", f"--reuid={USER}", "--clear-groups", "unshare", "--user", "true"]
        if subprocess.run(probe, cwd="/", capture_output=True).returncode:
            pytest.skip("nobody but root may make a user namespace here")
        yield
    finally:
        _do(*_ONE_AT_A_TIME, "userdel", "--force", USER)


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def busybox_files() -> list[Path]:
    """busybox and the libraries that it needs."""
    program = Path(shutil.which("busybox") or "/bin/busybox").resolve()
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    words = [word for line in listed.splitlines() for word in line.split()]
    return [program, *(Path(word) for word in words if word.startswith("/"))]


def _add_busybox(tree: Path) -> None:
    for file in busybox_files():
        target = tree / str(file).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    target = tree / "bin/busybox"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        shutil.copy(busybox_files()[0], target)


def base_layer() -> Layer:
    """A root with busybox, and with files and directories for `top_layer` to remove."""
    layer = LayerBuilder()
    for directory in ("dev", "proc", "sys", "run", "etc", "opt", "bin"):
        layer.dir(directory)
    for file in busybox_files():
        layer.file(str(file).lstrip("/"), file.read_bytes(), mode=0o755)
    if not any(str(file) == "/bin/busybox" for file in busybox_files()):
        layer.symlink("bin/busybox", str(busybox_files()[0]))
    # What podman puts into a container, and could not without root: the store is not its own.
    layer.symlink("etc/mtab", "/proc/mounts").file("run/.containerenv")
    for name in ("hosts", "hostname", "resolv.conf"):
        layer.file(f"etc/{name}")
    return (
        layer.file("etc/old", "old\n")
        .file("opt/a", "a\n")
        .file("opt/b", "b\n")
        .dir("srv")
        .dir("srv/gone")
        .file("srv/gone/inside", "x\n")
        .layer()
    )


def top_layer() -> LayerBuilder:
    """Removes a file, a directory, and all that was in another; adds others."""
    return (
        LayerBuilder()
        .dir("etc")
        .whiteout("etc/old")
        .file("etc/new", "new\n")
        .dir("opt")
        .opaque("opt")
        .file("opt/c", "c\n")
        .dir("srv")
        .whiteout("srv/gone")
    )
