"""Flat trees that everybody may read, whatever their images say."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duccmake.demo.images import Image
from duccmake.jobs.rollback import roll_back
from duccmake.layer.flatten import LayerTree, flatten_image
from duccmake.oci.manifest import ImageConfig
from duccmake.planning.pending import why_pending
from duccmake.planning.plan import Plan
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.metadata import wished_record
from duccmake.repository.model import UNMEASURED, ChangeSet, Keep, StagedImage, StagedLayer
from duccmake.tree import mtree
from support.cvmfs_repositories import CHUNKS, LARGEST, both
from support.images import LayerBuilder
from support.on_disk import OnDisk
from support.oracles import needs_root
from support.other_user import run_as
from support.pipeline import NAME, change_set, digest_of, flat_form, flattened, stage, staged
from support.planned import image, layer, plan
from support.samples import AMD64


def entry(path: str, kind: bytes, mode: int, **more: object) -> mtree.Entry:
    return mtree.Entry(path.encode(), kind, mode, **more)  # type: ignore[arg-type]


def widened(entries: list[mtree.Entry]) -> dict[bytes, mtree.Entry]:
    """What an image's flat tree has of a layer with these entries."""
    listing = mtree.FORMAT + b"".join(each.line() for each in entries)
    layer = LayerTree(digest_of(b"layer"), listing)
    with tempfile.TemporaryDirectory() as directory:
        config = ImageConfig(AMD64, ())
        flatten_image(
            [layer], config, Path(directory), name="x", mount_points=[], fix_permissions=True
        )
        found = mtree.read(Path(directory) / "image" / "tree.mtree")
        return {each.path: each for each in found}


MODES = st.integers(0, 0o7777)


@given(MODES, MODES, MODES, MODES)
def test_what_more_may_read_is_flagged_and_nothing_else_is_changed(root, directory, file, link):
    found = widened(
        [
            entry(".", mtree.DIR, root),
            entry("d", mtree.DIR, directory),
            entry("d/f", mtree.FILE, file, size=1, sha256="0" * 64),
            entry("d/g", mtree.FILE, file, size=1, sha256="0" * 64, hardlink=b"d/f"),
            entry("d/l", mtree.LINK, link, target=b"f"),
            entry("d/p", mtree.FIFO, file),
            entry("d/z", mtree.CHAR, file, device=(1, 3)),
        ]
    )
    modes = {path.decode(): each.mode for path, each in found.items()}
    assert modes["."] == root | 0o555
    assert modes["d"] == directory | 0o555
    runs = file & 0o100 and not file & 0o6000
    readable = file | (0o555 if runs else 0o444)
    assert modes["d/f"] == modes["d/g"] == readable
    assert (modes["d/l"], modes["d/p"], modes["d/z"]) == (link, file, file)
    flagged = {path.decode() for path, each in found.items() if mtree.WIDENED in each.flags}
    changed = {"." if root | 0o555 != root else "", "d" if directory | 0o555 != directory else ""}
    changed |= {"d/f", "d/g"} if readable != file else set()
    assert flagged == changed - {""}


# --- published -------------------------------------------------------------

OWN = {"uid": os.geteuid(), "gid": os.getegid()}
LAYERS = (
    LayerBuilder()
    .dir("etc", mode=0o700, **OWN)
    .file("etc/shadow", "secret", mode=0o600, **OWN)
    .file("etc/passwd", "public", mode=0o644, **OWN)
    .file("etc/suid", "program", mode=0o4711, **OWN)
    .file("etc/root-s-own", "program", mode=0o4700, **OWN)
    .file("etc/run", "program", mode=0o700, **OWN)
    .hardlink("etc/shadow-", "etc/shadow")
    .file("big", os.urandom(1024**2 + LARGEST), mode=0o400, **OWN)
    .layer(),
    LayerBuilder().dir("root", mode=0o711, **OWN).file("empty", mode=0, **OWN).layer(),
)
AS_THE_IMAGE_SAYS = {
    "etc": 0o700,
    "etc/shadow": 0o600,
    "etc/shadow-": 0o600,
    "etc/passwd": 0o644,
    "etc/suid": 0o4711,
    "etc/root-s-own": 0o4700,
    "etc/run": 0o700,
    "big": 0o400,
    "root": 0o711,
    "empty": 0,
}
FIXED = {
    "etc": 0o755,
    "etc/shadow": 0o644,
    "etc/shadow-": 0o644,
    "etc/passwd": 0o644,
    "etc/suid": 0o4755,
    "etc/root-s-own": 0o4744,
    "etc/run": 0o755,
    "big": 0o444,
    "root": 0o755,
    "empty": 0o444,
}
WIDENED = 9


class Publisher:
    """Publishes the image into a repository, its layers once."""

    def __init__(self, repository: Any, staging: Path, *, catalogs: bool) -> None:
        self._repository = repository
        self._image = Image(LAYERS, platform=AMD64)
        self._staging = staging
        self._catalogs = catalogs
        flattened(LAYERS, staging, catalogs=catalogs)
        self._layers = tuple(
            StagedLayer(layer.digest, staging / layer.digest.hex / "layer") for layer in LAYERS
        )
        self._trees = [
            LayerTree(each.digest, (each.path / ".metadata" / "tree.mtree").read_bytes())
            for each in self._layers
        ]

    def staged(self, *, fix_permissions: bool, name: str = NAME) -> StagedImage:
        """The image under a name, its flat tree staged in the one way or the other."""
        base = Path(tempfile.mkdtemp(dir=self._staging))
        config = ImageConfig.parse(self._image.config_bytes)
        flatten_image(
            self._trees,
            config,
            base,
            name="x",
            mount_points=[],
            fix_permissions=fix_permissions,
            catalogs=flat_form(self._image, self._staging) if self._catalogs else None,
        )
        found = staged(name, self._image, base / "image", ("layers", "flat"))
        return replace(found, fix_permissions=fix_permissions)

    def publish(
        self, *, fix_permissions: bool, verify: bool = True, name: str = NAME
    ) -> dict[str, int]:
        """The modes that the flat tree has then."""
        found = self.staged(fix_permissions=fix_permissions, name=name)
        with self._repository.lock():
            self._repository.publish(ChangeSet(self._layers, (found,)))
        self._layers = ()
        assert not verify or self._repository.verify(name) == []
        record = self._repository.record(name)
        assert record.fix_permissions == fix_permissions
        assert record.losses.get("widened", 0) == WIDENED * fix_permissions
        for wished in (True, False):
            has_flat = self._repository.has_flat(found.config, found.layers, wished)
            assert has_flat == (wished == fix_permissions)
        layout = OnDisk(self._repository.path)
        for number, each in enumerate(LAYERS):
            tree = layout.layerfs(each.digest)
            assert modes(tree, AS_THE_IMAGE_SAYS) == {
                path: mode
                for path, mode in AS_THE_IMAGE_SAYS.items()
                if (path in ("root", "empty")) == bool(number)
            }
        flat = layout.flat(found.config)
        assert (flat / "etc/shadow").read_text() == (flat / "etc/shadow-").read_text() == "secret"
        return modes(flat, AS_THE_IMAGE_SAYS)


def modes(tree: Path, paths: Iterable[str]) -> dict[str, int]:
    return {
        path: stat.S_IMODE((tree / path).lstat().st_mode)
        for path in paths
        if os.path.lexists(tree / path)
    }


def publish_in_turn(publisher: Publisher) -> None:
    for fix_permissions in (False, True, True, False):
        wished = FIXED if fix_permissions else AS_THE_IMAGE_SAYS
        assert publisher.publish(fix_permissions=fix_permissions) == wished


@pytest.mark.parametrize("flat", ["hardlink", "copy", "reflink"])
def test_a_directory_s_flat_trees_are_made_again_and_its_layers_stay(flat, tmp_path):
    repository = DirectoryRepository(tmp_path / "cvmfs", "x.example.org", flat=flat, durable=False)
    publish_in_turn(Publisher(repository, tmp_path / "staging", catalogs=False))


@needs_root
def test_without_root_what_nobody_may_read_is_read_all_the_same():
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        base.chmod(0o777)

        def publish_it() -> None:
            repository = DirectoryRepository(base / "cvmfs", "x.example.org", durable=False)
            publisher = Publisher(repository, base / "staging", catalogs=False)
            # Verifying would need to read the layers' files.
            assert publisher.publish(fix_permissions=True, verify=False) == FIXED

        run_as(1234, publish_it)


@pytest.mark.parametrize("cvmfs", both(*CHUNKS), indirect=True)
def test_cernvm_fs_has_files_of_another_mode_with_their_content(cvmfs, staging):
    publish_in_turn(Publisher(cvmfs.open(), staging, catalogs=True))
    assert cvmfs.problems() == ""


def test_readable_first_and_its_layers_published_before(cvmfs, staging):
    publisher = Publisher(cvmfs.open(), staging, catalogs=True)
    for fixed in (True, False, True):
        wished = FIXED if fixed else AS_THE_IMAGE_SAYS
        assert publisher.publish(fix_permissions=fixed) == wished


# --- records ---------------------------------------------------------------


def said_of(repository: DirectoryRepository, name: str) -> tuple[bool, int]:
    record = repository.record(name)
    assert record is not None
    return record.fix_permissions, record.losses.get("widened", 0)


@pytest.fixture
def repository(tmp_path: Path) -> DirectoryRepository:
    return DirectoryRepository(tmp_path / "cvmfs", "x.example.org", durable=False)


def test_every_name_of_a_flat_tree_says_how_it_was_made_last(repository, tmp_path):
    publisher = Publisher(repository, tmp_path / "staging", catalogs=False)
    publisher.publish(fix_permissions=False)
    for fixed in (True, False):
        publisher.publish(fix_permissions=fixed, name=f"{NAME}0")
        assert said_of(repository, NAME) == (fixed, WIDENED * fixed)
        assert repository.verify(NAME) == []


def move_away(repository: DirectoryRepository, staging: Path, keep: Keep) -> None:
    other = Image((LayerBuilder().file("other", "other", **OWN).layer(),), platform=AMD64)
    found = replace(stage(NAME, other, staging), keep=keep)
    with repository.lock():
        repository.publish(change_set([found], staging))


def test_a_tag_that_is_pointed_back_says_how_its_flat_tree_was_made_last(repository, tmp_path):
    publisher = Publisher(repository, tmp_path / "staging", catalogs=False)
    publisher.publish(fix_permissions=False)
    first = repository.record(NAME)
    move_away(repository, tmp_path / "staging", Keep())
    publisher.publish(fix_permissions=True, name=f"{NAME}0")
    roll_back(repository, NAME, str(first.manifest), Keep())
    assert said_of(repository, NAME) == (True, WIDENED)


def test_what_a_tag_left_says_how_its_flat_tree_was_made_last(repository, tmp_path):
    publisher = Publisher(repository, tmp_path / "staging", catalogs=False)
    publisher.publish(fix_permissions=False)
    manifest = repository.record(NAME).manifest
    move_away(repository, tmp_path / "staging", Keep(1))
    publisher.publish(fix_permissions=True, name=f"{NAME}0")
    assert said_of(repository, f"{NAME.removesuffix(':1')}@{manifest}") == (True, WIDENED)


def test_what_a_tag_leaves_while_the_tree_is_made_otherwise_says_so(repository, tmp_path):
    staging = tmp_path / "staging"
    publisher = Publisher(repository, staging, catalogs=False)
    publisher.publish(fix_permissions=False)
    manifest = repository.record(NAME).manifest
    other = Image((LayerBuilder().file("other", "other", **OWN).layer(),), platform=AMD64)
    moved = replace(stage(NAME, other, staging), keep=Keep(1))
    fixed = publisher.staged(fix_permissions=True, name=f"{NAME}0")
    layers = change_set([moved], staging).layers
    with repository.lock():
        repository.publish(ChangeSet(layers, (moved, fixed)))
    assert said_of(repository, f"{NAME.removesuffix(':1')}@{manifest}") == (True, WIDENED)


def test_an_image_without_a_flat_tree_says_nothing_of_that_of_others(repository, tmp_path):
    publisher = Publisher(repository, tmp_path / "staging", catalogs=False)
    publisher.publish(fix_permissions=False)
    found = publisher.staged(fix_permissions=True, name=f"{NAME}0")
    with repository.lock():
        repository.publish(ChangeSet((), (replace(found, products=("layers",)),)))
    assert said_of(repository, NAME) == (False, 0)


@pytest.mark.parametrize(
    ("products", "losses", "said"),
    [
        (("layers", "flat"), {}, True),
        (("layers",), {}, False),
        (("layers", "flat"), {UNMEASURED: 2}, False),
    ],
)
def test_only_a_flat_tree_that_was_made_here_is_said_to_be_readable(products, losses, said):
    found = replace(staged(NAME, Image(LAYERS), None, products), fix_permissions=True)
    assert wished_record(found, losses).fix_permissions == said


# --- planned ---------------------------------------------------------------


def test_an_image_is_pending_when_its_tree_was_made_in_the_other_way(tmp_path):
    repository = DirectoryRepository(tmp_path / "cvmfs", "x.example.org", durable=False)
    Publisher(repository, tmp_path / "staging", catalogs=False).publish(fix_permissions=True)
    record = repository.record(NAME)
    planned = image(NAME, manifest=record.manifest, config=record.config)
    why = why_pending(planned, repository, record)
    assert why == "its flat tree was made with flat.fix_permissions"
    fixed = replace(planned, fix_permissions=True)
    assert why_pending(fixed, repository, record) == ""
    assert why_pending(replace(planned, products=("layers",)), repository, record) == ""
    # What DUCC made stays as it is.
    unmeasured = replace(record, losses={UNMEASURED: 3}, fix_permissions=False)
    assert why_pending(fixed, repository, unmeasured) == ""
    others = [replace(planned, layers=(layer("another"),)), replace(fixed, layers=(layer("b"),))]
    found = {plan([one]).flat_key(one) for one in (planned, fixed)}
    # Images of one configuration over different layers have trees of their own.
    found |= {plan([planned, other]).flat_key(planned) for other in others[:1]}
    found |= {plan([fixed, other]).flat_key(fixed) for other in others[1:]}
    assert len(found) == 3


def test_a_plan_says_of_its_images_how_their_trees_are_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = [image(NAME, fix_permissions=True), image(f"{NAME}0")]
    saved = Plan.load(plan(wanted).save())
    assert [each.fix_permissions for each in saved.images] == [True, False]
