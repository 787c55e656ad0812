"""Root of a user namespace, as in a rootless container, has no number for every owner."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from duccmake.layer import unpack
from support.images import LayerBuilder

UNPACK = """
import sys
from pathlib import Path
from duccmake.oci.reference import Digest
from duccmake.layer.unpack import unpack_layer
blob, stage, digest = sys.argv[1:]
done = unpack_layer(Path(blob), Path(stage), digest=Digest.parse(digest))
print(done.lost)
"""


def test_owners_that_a_user_namespace_does_not_have_are_noted_as_lost(tmp_path: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"]).returncode:
        pytest.skip("this machine has no user namespaces")
    layer = (
        LayerBuilder()
        .dir("home", uid=70_000, gid=70_000)
        .file("home/file", "content", uid=70_000, gid=70_000, mode=0o4755)
        .symlink("home/link", "file", uid=70_000, gid=70_000)
        .file("ours", "content")
        .layer()
    )
    (tmp_path / "blob").write_bytes(layer.blob)
    arguments = [tmp_path / "blob", tmp_path / "stage", str(layer.digest)]
    done = subprocess.run(
        [*namespace, sys.executable, "-c", UNPACK, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(unpack.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "{'owners': 3}", done.stderr
    tree = tmp_path / "stage" / "layer"
    assert (tree / "layerfs/home/file").stat().st_mode & 0o7777 == 0o4755
    lines = (tree / ".metadata/tree.mtree").read_text().splitlines()
    entries = {line.split()[0]: line for line in lines if line.startswith("./")}
    for lost in ("./home", "./home/file", "./home/link"):
        assert "uid=70000" in entries[lost] and "lost:owners" in entries[lost]
    assert "lost" not in entries["./ours"]
