"""Staging a layer as objects and catalogs, against compressing its files and nothing else.

The peers read the archive with Python's tarfile and compress each file, with zlib as
``cvmfs_server`` does, or with libdeflate as duccmake does; they neither check nor keep
anything.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import layers
import pytest
from compare import Program, alternate

PACKAGE = Path(__file__).parents[2] / "workflow"
STAGE = f"""
import sys
sys.path.insert(0, {str(PACKAGE)!r})
from pathlib import Path
from duccmake.cvmfs.codec import Codec, Level
from duccmake.cvmfs.keeping import Keeping
from duccmake.layer.catalogs import CatalogForm
from duccmake.layer.limits import UnpackLimits
from duccmake.layer.unpack import unpack_layer
from duccmake.oci.reference import Digest
blob, out, digest, form = sys.argv[1:]
catalogs = None
if form != "tree":
    catalogs = CatalogForm(b"/.layers/00/00/layerfs", Keeping(), Codec(Level(form)))
unpack_layer(
    Path(blob), Path(out), limits=UnpackLimits(ratio=0), digest=Digest("sha256", digest),
    catalogs=catalogs,
)
"""
COMPRESS = """
import sys, tarfile
blob, out, how = sys.argv[1:]
if how == "zlib":
    from zlib import compress
    level = 6
else:
    from deflate import zlib_compress as compress
    level = 5
size = 0
with tarfile.open(blob) as archive, open(out + "/content", "wb") as content:
    for member in archive:
        if member.isreg():
            with archive.extractfile(member) as file:
                while piece := file.read(8 << 20):
                    content.write(compress(piece, level))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layers.data_directory(tmp_path_factory.mktemp("layers"))


def ours(layer: layers.Layer, form: str) -> Program:
    command = [sys.executable, "-c", STAGE, layer.blob, "{out}", layer.digest, form]
    return Program("a tree" if form == "tree" else f"catalogs, {form}", command)


def compress(layer: layers.Layer, how: str) -> Program:
    return Program(f"{how} alone", [sys.executable, "-c", COMPRESS, layer.blob, "{out}", how])


def test_debian_root_against_zlib_and_libdeflate(data: Path) -> None:
    layer = layers.debian_root(data)
    peers = [compress(layer, "zlib"), compress(layer, "libdeflate"), ours(layer, "tree")]
    alternate("A layer of a Debian root", [ours(layer, "balanced"), *peers], rounds=3)


@pytest.mark.parametrize("level", ["fast", "small"])
def test_other_levels_against_zlib(data: Path, level: str) -> None:
    layer = layers.debian_root(data)
    programs = [ours(layer, level), compress(layer, "zlib")]
    alternate("A layer of a Debian root", programs, rounds=3)


def test_two_cores_against_one(data: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two cores need two cores")
    both = ours(layers.debian_root(data), "balanced")
    one = Program("the same on one core", ["taskset", "--cpu-list", "0", *both.command])
    alternate("A layer of a Debian root", [both, one], rounds=3)


def test_small_files_against_libdeflate(data: Path) -> None:
    layer = layers.small_files(data)
    alternate(
        "200,000 small files", [ours(layer, "balanced"), compress(layer, "libdeflate")], rounds=3
    )


def test_memory_of_many_files_in_one_directory(data: Path) -> None:
    layer = layers.small_files(data, 300_000, per_directory=300_000)
    programs = [ours(layer, "balanced"), ours(layer, "tree")]
    alternate("300,000 files in one directory", programs, rounds=1, warm_up=False)


def test_memory_of_a_file_of_10_gb(data: Path, tmp_path: Path) -> None:
    size = 10 * 1024**3
    if shutil.disk_usage(tmp_path).free < size:
        pytest.skip("a file of 10 GB needs 10 GB of free space")
    layer = layers.big_file(data, size)
    alternate("A file of 10 GB", [ours(layer, "balanced")], rounds=1, warm_up=False)
