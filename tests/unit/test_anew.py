"""An image that is converted anew replaces all that is there of it, and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.errors import RepositoryError
from duccmake.oci.reference import Reference
from duccmake.planning.anew import Anew
from duccmake.repository.layout import Layout
from duccmake.repository.model import ChangeSet, ImageRecord
from support.cvmfs_repositories import Real, StandIn
from support.staged_trees import (
    BASE,
    NAME,
    TOP,
    directory,
    file,
    flat_of,
    listing,
    open_repository,
    publish,
    stage_image,
    stage_layer,
)

OTHER = "registry.example.org/tools/other:1"
WRONG = [
    directory(".", 0o700),
    directory("bin"),
    file("bin/busybox", b"\x7fELF something else", 0o755),
    directory("etc"),
    file("etc/too-much", b"too much"),
    directory("etc/old.conf"),
]


def staged(staging: Path, base: Sequence[object], *, anew: str = "", name: str = NAME) -> ChangeSet:
    """An image whose lower layer is, under one digest, what ``base`` says."""
    layers = [(stage_layer(staging, "base", base), base), (stage_layer(staging, "top", TOP), TOP)]
    image = stage_image(staging / "images", name, layers, config="the same")
    return ChangeSet(tuple(layer for layer, _ in layers), (replace(image, anew=anew),))


def record(repository) -> ImageRecord:
    found = repository.record(NAME)
    assert found is not None
    return found


def trees(repository, image) -> list[dict[str, tuple[object, ...]]]:
    """Flat tree and layers, with what CernVM-FS keeps of it."""
    layout = Layout(repository.path)
    found = [flat_of(repository, image), *map(layout.layerfs, image.layers)]
    return [
        {
            # Whiteouts have the time of their making.
            path: (*entry[:4], 0 if entry[5] == 0 else entry[4] // 10**9, entry[5])
            for path, entry in listing(tree).items()
            if Path(path).name != ".cvmfscatalog"
        }
        for tree in found
    ]


def replaces_all(repository, plain, staging: Path) -> None:
    publish(repository, staged(staging, WRONG))
    (image,) = publish(repository, staged(staging, BASE))
    assert "bin/sh" not in trees(repository, image)[0], "what is there is believed"

    (image,) = publish(repository, staged(staging, BASE, anew="now"))
    publish(plain, staged(staging, BASE))
    assert repository.verify(NAME) == []
    assert trees(repository, image) == trees(plain, image)
    assert record(repository).anew == "now"


def test_in_a_directory(staging: Path, tmp_path: Path) -> None:
    replaces_all(open_repository(tmp_path), open_repository(tmp_path / "plain"), staging)


@pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")
def test_in_cernvm_fs(cvmfs: StandIn | Real, staging: Path, tmp_path: Path) -> None:
    replaces_all(cvmfs.open(), open_repository(tmp_path / "plain"), staging)
    assert cvmfs.problems() == ""


def test_it_is_done_once_for_each_time_it_is_asked_for(staging: Path, tmp_path: Path) -> None:
    repository = open_repository(tmp_path)
    (image,) = publish(repository, staged(staging, BASE, anew="1"))
    before = flat_of(repository, image).stat().st_ino
    publish(repository, staged(staging, BASE, anew="1"))
    publish(repository, staged(staging, BASE))
    assert flat_of(repository, image).stat().st_ino == before
    assert record(repository).anew == "1"
    publish(repository, staged(staging, BASE, anew="2"))
    assert flat_of(repository, image).stat().st_ino != before


def test_an_image_that_shares_the_flat_tree_and_comes_along_gets_the_new_one(
    staging: Path, tmp_path: Path
) -> None:
    repository = open_repository(tmp_path)
    publish(repository, staged(staging, WRONG))
    beside, again = staged(staging, BASE, name=OTHER), staged(staging, BASE, anew="now")
    publish(repository, ChangeSet(again.layers, (*beside.images, *again.images)))
    assert repository.verify(NAME) == repository.verify(OTHER) == []


def test_the_old_one_is_in_force_while_the_new_one_is_not_whole(
    staging: Path, tmp_path: Path
) -> None:
    repository = open_repository(tmp_path)
    (image,) = publish(repository, staged(staging, BASE))
    before = trees(repository, image)
    again = staged(staging, BASE, anew="now")
    assert again.images[0].path
    (again.images[0].path / "tree.mtree").unlink()
    with pytest.raises(RepositoryError):
        publish(repository, again)
    assert trees(repository, image) == before
    assert repository.verify(NAME) == []
    assert record(repository).anew == ""


# --- which images -------------------------------------------------------


@pytest.mark.parametrize(
    ("globs", "name", "is_asked_for"),
    [
        (["docker.io/library/debian:12"], "docker.io/library/debian:12", True),
        (["debian:12"], "docker.io/library/debian:12", False),
        (["https://docker.io/library/debian:12"], "docker.io/library/debian:12", True),
        (["docker.io/library/debian"], "docker.io/library/debian:latest", True),
        (["docker.io/library/debian"], "docker.io/library/debian:12", False),
        (["docker.io/library/*"], "docker.io/library/debian:12", True),
        (["*:1?"], "docker.io/library/debian:12", True),
        (["*debian:12"], "ghcr.io/x/debian:12", True),
        (["x.y/z:1", "*:2"], "docker.io/library/debian:12", False),
        ([], "docker.io/library/debian:12", False),
    ],
)
def test_images_are_asked_for_by_names_and_globs(
    globs: list[str], name: str, is_asked_for: bool
) -> None:
    anew = Anew(globs)
    assert bool(anew.stamp(Reference.parse(f"https://{name}"))) == is_asked_for
    assert anew.unmatched == (globs if not is_asked_for else [])


def test_what_no_image_is_called_is_known_afterwards() -> None:
    anew = Anew(["docker.io/library/debian:12", "ghcr.io/*"])
    anew.stamp(Reference.parse("https://docker.io/library/debian:12"))
    assert anew.unmatched == ["ghcr.io/*"]


def test_each_run_has_a_stamp_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Reference.parse("https://docker.io/library/debian:12")
    first = Anew(["*"])
    assert first.stamp(image) == first.stamp(image)
    now = time.time() + 1
    monkeypatch.setattr("time.time", lambda: now)
    assert Anew(["*"]).stamp(image) != first.stamp(image)
