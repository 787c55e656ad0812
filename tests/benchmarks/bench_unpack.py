"""Unpacking one layer, against ``tar -xzf`` (which checks nothing) and ``umoci unpack``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import layers
import pytest
from compare import Program, alternate

PACKAGE = Path(__file__).parents[2] / "workflow"
UNPACK = f"""
import sys
sys.path.insert(0, {str(PACKAGE)!r})
from pathlib import Path
from duccmake.layer.limits import UnpackLimits
from duccmake.oci.reference import Digest
from duccmake.layer.unpack import unpack_layer
blob, out, digest = sys.argv[1:]
unpack_layer(
    Path(blob), Path(out), limits=UnpackLimits(ratio=0),
    digest=Digest("sha256", digest),
)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layers.data_directory(tmp_path_factory.mktemp("layers"))


def ours(layer: layers.Layer) -> Program:
    command = [sys.executable, "-c", UNPACK, layer.blob, "{out}", layer.digest]
    return Program("duccmake", command)


def tar(layer: layers.Layer) -> Program:
    return Program("tar -xzf", ["tar", "-xzf", layer.blob, "-C", "{out}"])


def umoci(layer: layers.Layer, directory: Path) -> Program:
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not installed")
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    image = layers.oci_image(directory, [layer])
    return Program("umoci unpack", ["umoci", "unpack", *rootless, "--image", image, "{out}/bundle"])


def test_debian_root_against_tar(data: Path) -> None:
    layer = layers.debian_root(data)
    alternate("A layer of a Debian root", [ours(layer), tar(layer)])


def test_debian_root_against_umoci(data: Path, tmp_path: Path) -> None:
    layer = layers.debian_root(data)
    alternate("A layer of a Debian root", [ours(layer), umoci(layer, tmp_path / "image")], rounds=3)


def test_small_files_against_tar(data: Path) -> None:
    layer = layers.small_files(data)
    alternate("200,000 small files", [ours(layer), tar(layer)])


def test_small_files_against_umoci(data: Path, tmp_path: Path) -> None:
    layer = layers.small_files(data)
    alternate("200,000 small files", [ours(layer), umoci(layer, tmp_path / "image")], rounds=3)


def test_memory_of_many_files_in_one_directory(data: Path) -> None:
    layer = layers.small_files(data, 300_000, per_directory=300_000)
    alternate("300,000 files in one directory", [ours(layer), tar(layer)], rounds=1, warm_up=False)


def test_memory_of_a_file_of_10_gb(data: Path, tmp_path: Path) -> None:
    size = 10 * 1024**3
    if shutil.disk_usage(tmp_path).free < 2 * size:
        pytest.skip("a file of 10 GB needs 20 GB of free space")
    layer = layers.big_file(data, size)
    alternate("A file of 10 GB", [ours(layer), tar(layer)], rounds=1, warm_up=False)


def test_one_file(tmp_path: Path) -> None:
    """What every layer costs, however small."""
    layer = layers.small_files(tmp_path, 1)
    alternate("A layer of one file", [ours(layer), tar(layer)], rounds=9)
