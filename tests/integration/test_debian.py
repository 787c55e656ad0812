"""A real Debian, by tools of others: what is published is what umoci makes of the same image.

mmdebstrap makes the root, umoci the image (a base, a layer in which dpkg installs a
package, one in which things are removed), skopeo pushes it to Debian's docker-registry
in both manifest formats and with both compressions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from duccmake.oci.manifest import DOCKER_MANIFEST, OCI_MANIFEST, parse_manifest
from duccmake.tree import mtree
from support.on_disk import OnDisk
from support.oracles import snapshotter
from support.runs import Run, Work
from support.servers import DockerRegistry, docker_registry, need, skopeo
from support.trees import Node, differences, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot and real owners")

PACKAGE = "tree"
"""What the second layer installs: a program that needs libc alone."""

TAGS = ("oci", "docker", "zstd")

ADDED = frozenset(
    {b".exec", b".run", b".shell", b".singularity.d", b".test", b"cvmfs", b"environment"}
    | {b"etc/hosts", b"etc/resolv.conf", b"singularity", b"srv"}
)
"""What a flat tree gets where the image has it not; all else is the image's, times included."""


@dataclass(frozen=True)
class Debian:
    """The image as skopeo names it, with layers in gzip and in zstd, and as umoci unpacks it."""

    gzip: str
    zstd: str
    rootfs: Path


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Debian:
    for program in ("mmdebstrap", "umoci", "skopeo"):
        need(program)
    base = tmp_path_factory.mktemp("debian")
    _bootstrap(base)
    image = f"{base}/oci:app"
    _tool(base, "umoci", "init", "--layout", f"{base}/oci")
    _tool(base, "umoci", "new", "--image", image)
    _tool(base, "umoci", "unpack", "--image", image, "bundle")
    rootfs = base / "bundle/rootfs"

    def layer() -> None:
        _tool(base, "umoci", "repack", "--refresh-bundle", "--image", image, "bundle")

    _tool(base, "tar", "-xpf", "root.tar", "-C", str(rootfs), "--numeric-owner")
    layer()
    _install(base, rootfs)
    layer()
    _remove(rootfs)
    layer()
    _tool(base, "umoci", "config", "--image", image, "--config.cmd", "/usr/bin/perl")
    _tool(base, "umoci", "unpack", "--image", image, "oracle")
    plain, zstd = f"dir:{base}/plain", f"dir:{base}/zstd"
    _copy("--dest-decompress", f"oci:{image}", plain)
    _copy("--dest-compress", "--dest-compress-format", "zstd", plain, zstd)
    return Debian(f"oci:{image}", zstd, base / "oracle/rootfs")


def _bootstrap(base: Path) -> None:
    """A tarball of Debian, and the package beside it."""
    download = f'cd {base} && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download {PACKAGE}'
    command = ["mmdebstrap", "--quiet", "--variant=essential", f"--customize-hook={download}"]
    done = subprocess.run(
        [*command, "bookworm", f"{base}/root.tar"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mmdebstrap makes no Debian here: {done.stderr.strip()[-500:]}")


def _install(base: Path, rootfs: Path) -> None:
    [package] = base.glob(f"{PACKAGE}_*.deb")
    shutil.copy(package, rootfs / "package.deb")
    _tool(base, "chroot", str(rootfs), "dpkg", "--install", "/package.deb")
    (rootfs / "package.deb").unlink()
    # What a package of this size does not have.
    helper = rootfs / "usr/local/bin/helper"
    helper.write_text("#!/bin/sh\n")
    os.chown(helper, 0, 70_000)
    helper.chmod(0o4750)
    os.link(helper, rootfs / "usr/local/bin/helper-too")


def _remove(rootfs: Path) -> None:
    for path in ("usr/share/doc", "usr/share/locale", "usr/share/info", "var/cache/debconf"):
        shutil.rmtree(rootfs / path)
    (rootfs / "usr/bin/yes").unlink()
    # A directory that becomes a file, and a file that becomes a directory.
    (rootfs / "usr/share/info").write_text("no directory any more\n")
    (rootfs / "etc/issue").unlink()
    (rootfs / "etc/issue").mkdir(mode=0o700)
    (rootfs / "etc/issue/inside").write_text("inside\n")


def _copy(*arguments: str) -> None:
    skopeo("--insecure-policy", "copy", "--dest-tls-verify=false", *arguments)


def _tool(cwd: Path, *command: str) -> str:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    environment = {"PATH": path, "HOME": str(cwd), "LC_ALL": "C"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, debian: Debian) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("docker-registry")) as running:
        target = f"docker://{running.host}/team/debian"
        _copy("--format", "oci", debian.gzip, f"{target}:oci")
        _copy("--format", "v2s2", debian.gzip, f"{target}:docker")
        # Else skopeo takes the layers that it knows the registry to have in gzip.
        _copy("--preserve-digests", debian.zstd, f"{target}:zstd")
        yield running


@pytest.fixture(scope="module")
def run(work: Work) -> Run:
    return work.run(check=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, registry: DockerRegistry) -> Work:
    work = Work(tmp_path_factory.mktemp("debian-repository") / "work")
    work.wish(f"http://{registry.host}/team/debian:*")
    work.configure()
    return work


@pytest.fixture(scope="module", params=TAGS)
def name(request: pytest.FixtureRequest, registry: DockerRegistry) -> str:
    """Each of the images, by its name in the repository."""
    return f"{registry.host}/team/debian:{request.param}"


@pytest.fixture(scope="module")
def oracle(debian: Debian) -> Mapping[bytes, Node]:
    return snapshot(debian.rootfs)


def test_the_flat_tree_is_what_umoci_unpacks(
    work: Work, run: Run, name: str, oracle: Mapping[bytes, Node]
):
    tree = snapshot((work.repository.path / name).resolve())
    assert len(oracle) > 1000
    assert b".singularity.d/runscript" in tree
    added = {
        path
        for path in tree.keys() - oracle.keys()
        if path in ADDED or path.startswith(b".singularity.d/")
    }
    assert differences(oracle, {path: tree[path] for path in tree.keys() - added}) == []


def test_containerd_stacks_the_published_layers_to_what_umoci_unpacks(
    work: Work, run: Run, name: str, oracle: Mapping[bytes, Node], tmp_path: Path
):
    record = work.repository.record(name)
    assert record
    with snapshotter(work.repository.path, record.layers, tmp_path) as root:
        found = snapshot(root)
    # A layer has no times of directories that it does not mention.
    passed_over: dict[bytes, tuple[str, ...]] = {
        entry.path: ("mtime_ns",)
        for layer in record.layers
        for entry in mtree.read(OnDisk(work.repository.path).layer_manifest(layer))
        if b"implied" in entry.flags
    }
    # The root is that of the directory which can be written to.
    passed_over[b"."] = ("mode", "mtime_ns")
    assert differences(oracle, found, ignore_on=passed_over) == []


def test_the_repository_verifies_what_it_published(work: Work, run: Run, name: str):
    assert work.repository.verify(name) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("/usr/bin/perl", "-e", "print qq(perl runs)"), "perl runs"),
        (("/usr/bin/tree", "--noreport", "/etc/issue"), "inside"),
        (("/bin/cat", "/etc/debian_version"), "12."),
    ],
)
def test_a_program_runs_from_the_flat_tree(
    work: Work, run: Run, name: str, command: tuple[str, ...], words: str
):
    tree = (work.repository.path / name).resolve()
    assert words in _tool(work.path, "chroot", str(tree), *command)


def test_both_manifest_formats_and_both_compressions_were_converted(
    work: Work, run: Run, registry: DockerRegistry
):
    found = {}
    for tag in TAGS:
        path = work.repository.path / ".metadata" / f"{registry.host}/team/debian:{tag}"
        manifest = parse_manifest((path / "manifest.json").read_bytes())
        compressions = {layer.media_type[-4:] for layer in manifest.layers}
        found[tag] = (manifest.media_type, len(manifest.layers), compressions)
    assert found == {
        "oci": (OCI_MANIFEST, 3, {"gzip"}),
        "docker": (DOCKER_MANIFEST, 3, {"gzip"}),
        "zstd": (OCI_MANIFEST, 3, {"zstd"}),
    }


def test_images_of_both_manifest_formats_share_the_layers_that_are_the_same(work: Work, run: Run):
    assert len(list((work.repository.path / ".layers").glob("*/*"))) == 6
