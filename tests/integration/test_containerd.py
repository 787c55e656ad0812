"""Layers as containerd stacks them, with the snapshotter of CernVM-FS, are umoci's tree.

But for what no layer says by itself, which the image's record tells.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from duccmake.demo.images import Image
from duccmake.repository.directory.backend import DirectoryRepository
from support import oracles, pipeline
from support.images import LayerBuilder
from support.oracles import needs_overlay, needs_umoci
from support.trees import differences, snapshot

LAYERS = (
    LayerBuilder()
    .dir(".", mode=0o755)
    .dir("etc", mode=0o750)
    .file("etc/old", "old")
    .dir("opt")
    .file("opt/a", "a")
    .dir("opt/sub", mode=0o700)
    .file("opt/sub/b", "b", uid=1000, gid=70_000)
    .file("program", "#!", mode=0o4755)
    .file("becomes-directory", "x")
    .dir("becomes-file")
    .file("becomes-file/inside", "x")
    .dir("srv")
    .dir("srv/gone")
    .file("srv/gone/inside", "x"),
    LayerBuilder()
    .whiteout("etc/old")
    .file("etc/new", "new")
    .hardlink("program-too", "program")
    .dir("becomes-directory")
    .file("becomes-directory/inside", "y")
    .file("becomes-file", "y")
    .whiteout("srv/gone"),
    LayerBuilder().dir("opt", mode=0o711).opaque("opt").file("opt/c", "c").dir("srv/gone"),
)


@needs_umoci
@needs_overlay
def test_the_stack_of_the_published_layers_is_what_umoci_unpacks(tmp_path: Path):
    layers = tuple(builder.layer() for builder in LAYERS)
    repository = DirectoryRepository(tmp_path / "cvmfs", "images.example.org", durable=False)
    staged = pipeline.stage(pipeline.NAME, Image(layers), tmp_path / "staging")
    with repository.lock():
        repository.publish(pipeline.change_set([staged], tmp_path / "staging"))
    wanted = snapshot(oracles.umoci(layers, tmp_path / "umoci"))
    with oracles.snapshotter(repository.path, staged.layers, tmp_path) as root:
        found = snapshot(root)
    assert b"opt/sub" not in found
    record = repository.record(pipeline.NAME)
    assert record is not None
    assert record.losses == {"links": 1, "directories": 5}
    assert wanted.pop(b"program-too").group == (b"program", b"program-too")
    wanted[b"program"] = replace(wanted[b"program"], group=())
    # The second layer implies it.
    assert (wanted[b"etc"].mode, found[b"etc"].mode) == (0o750, 0o755)
    wanted[b"etc"] = replace(wanted[b"etc"], mode=0o755)
    # The root is the directory that can be written to; umoci's times change with whiteouts.
    passed_over = {path: ("mtime_ns",) for path, node in wanted.items() if node.kind == "dir"}
    assert differences(wanted, found, ignore_on={**passed_over, b".": ("mtime_ns", "mode")}) == []
