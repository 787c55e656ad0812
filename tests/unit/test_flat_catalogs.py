"""Flat trees as catalogs: made of those of their layers, staged or published."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from corpus.archives import archive, random_archive
from duccmake.cvmfs.catalog import CatalogFile
from duccmake.cvmfs.codec import Codec
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import CHUNK_ABOVE, names_of
from duccmake.cvmfs.storage.local import LocalStorage
from duccmake.errors import RepositoryError
from duccmake.layer.catalogs import CatalogForm, StagedCatalogs
from duccmake.layer.flatten import LayerTree, flatten_image
from duccmake.layer.unpack import unpack_layer
from duccmake.oci.manifest import ImageConfig
from duccmake.oci.reference import Digest
from duccmake.repository.cvmfs.staging import Staging
from duccmake.repository.open import open_staging
from duccmake.repository.settings import RepositorySettings
from duccmake.tree import mtree
from support.pipeline import digest_of

NAME = "unpacked.example.org"
AT = b"/.flat/ab/abcd"
CONFIG = ImageConfig.parse(
    b'{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},'
    b' "rootfs": {"type": "layers", "diff_ids": []}}'
)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The storage of a repository that this machine publishes."""
    path = tmp_path / "storage"
    (path / "data/txn").mkdir(parents=True)
    (tmp_path / f"etc/{NAME}").mkdir(parents=True)
    (tmp_path / f"etc/{NAME}/server.conf").write_text(
        f"CVMFS_UPSTREAM_STORAGE=local,{path}/data/txn,{path}\nCVMFS_ENABLE_MTIME_NS=true\n"
    )
    return path


def settings(tmp_path: Path, **more: object) -> RepositorySettings:
    return RepositorySettings(
        backend="cvmfs",
        publisher="catalogs",
        server_config=tmp_path / "etc",
        **more,  # type: ignore[arg-type]
    )


def staged_layer(place: Path, content: bytes, at: bytes = b"/.layers/x") -> Path:
    place.mkdir(parents=True)
    (place / "blob").write_bytes(content)
    form = CatalogForm(at, Keeping(), Codec())
    return unpack_layer(place / "blob", place, digest=digest_of(content), catalogs=form).path


def flat(tmp_path: Path, layers: list[Path], *, fix_permissions: bool = False) -> Path:
    trees = [
        LayerTree(digest_of(bytes(layer)), (layer / ".metadata/tree.mtree").read_bytes())
        for layer in layers
    ]
    flatten_image(
        trees,
        CONFIG,
        tmp_path,
        name="config",
        mount_points=("/srv",),
        fix_permissions=fix_permissions,
        catalogs=(
            CatalogForm(AT, Keeping(), Codec()),
            [StagedCatalogs.read(layer).contents() for layer in layers],
        ),
    )
    return tmp_path / "image"


@pytest.mark.parametrize("seed", range(4))
def test_a_flat_tree_has_every_byte_of_its_layers_and_what_is_generated(
    tmp_path: Path, seed: int
) -> None:
    big = archive([("big", bytes(range(256)) * 70_000, {}), ("a", b"top", {})])
    archives = [random_archive(seed), random_archive(seed + 100), big]
    layers = [staged_layer(tmp_path / f"{n}", content) for n, content in enumerate(archives)]
    image = flat(tmp_path / "flat", layers)
    staged = StagedCatalogs.read(image)
    contents = staged.contents()
    everywhere = [StagedCatalogs.read(layer).objects for layer in layers] + [staged.objects]
    generated = 0
    for entry in mtree.read(image / "tree.mtree"):
        if entry.kind != mtree.FILE:
            continue
        content = contents.of(entry.path)
        names = set(names_of(content))
        objects = next(one for one in everywhere if names <= one.names.keys())
        found = b"".join(objects.pieces(content))
        assert hashlib.sha256(found).hexdigest() == entry.sha256
        generated += entry.layer is None
        assert (entry.layer is None) <= (names <= staged.objects.names.keys())
    assert generated > 0
    assert contents.of(b"big").size > CHUNK_ABOVE


def test_what_is_staged_of_a_flat_tree_is_catalogs_generated_files_and_its_manifest(
    tmp_path: Path,
) -> None:
    image = flat(tmp_path / "flat", [staged_layer(tmp_path / "0", random_archive(1))])
    staged = StagedCatalogs.read(image)
    published = b"".join(staged.objects.pieces(staged.manifest))
    assert published.startswith(mtree.FORMAT + b"# layer 0 ")
    own = {entry.path for entry in mtree.read(image / "tree.mtree") if b"generated" in entry.flags}
    contents = staged.contents()
    files = {
        name
        for path in own
        if (image / "generated" / path.decode()).is_file()
        for name in names_of(contents.of(path))
    }
    catalogs = {name for name in staged.objects.names if name.endswith(Kind.CATALOG)}
    empty = hashlib.sha1(Codec().compress(b"")).hexdigest()
    assert set(staged.objects.names) == files | catalogs | {*names_of(staged.manifest), empty}


def test_widened_modes_are_rows_with_other_modes(tmp_path: Path) -> None:
    layer = staged_layer(tmp_path / "0", archive([("d/secret", b"content", {"mode": 0o600})]))
    for fix, mode in ((False, 0o600), (True, 0o644)):
        image = flat(tmp_path / f"flat{fix}", [layer], fix_permissions=fix)
        staged = StagedCatalogs.read(image)
        content = staged.objects.get(staged.tree.hash.hex() + Kind.CATALOG)
        with CatalogFile.read(content) as catalog:
            row = catalog.row(AT + b"/d/secret")
        assert row is not None
        assert row.mode & 0o7777 == mode
        assert staged.contents().of(b"d/secret").size == 7


def test_a_layer_whose_catalogs_lack_a_file_is_told(tmp_path: Path) -> None:
    layer = staged_layer(tmp_path / "0", archive([("a", b"content", {})]))
    with pytest.raises(RepositoryError, match="no file of the catalogs"):
        StagedCatalogs.read(layer).contents().of(b"b")


# --- what a repository says --------------------------------------------------


def test_trees_are_staged_as_the_repository_keeps_them(tmp_path: Path, storage: Path) -> None:
    digest = digest_of(b"layer")
    staging = Staging(settings(tmp_path, prefix="images/here", compression="fast"), NAME)
    layer, image = staging.layer(digest), staging.flat(digest)
    assert layer.at == b"/images/here/.layers/%b/%b/layerfs" % (
        digest.hex[:2].encode(),
        digest.hex.encode(),
    )
    assert image.at == b"/images/here/.flat/%b/%b" % (digest.hex[:2].encode(), digest.hex.encode())
    assert layer.keeping == Keeping(nanoseconds=True)
    assert layer.codec.level == "fast"
    assert layer.salt != staging.layer(digest).salt
    assert Staging(settings(tmp_path, hard_links=True), NAME).layer(digest).keeping.hard_links


def test_catalogs_are_staged_for_cernvm_fs_and_nothing_else(tmp_path: Path, storage: Path) -> None:
    assert open_staging(settings(tmp_path), NAME) is not None
    assert open_staging(RepositorySettings(backend="cvmfs", publisher="ingest"), NAME) is not None
    assert open_staging(RepositorySettings(publisher="catalogs"), NAME) is None


def test_a_repository_of_another_machine_is_told(tmp_path: Path, storage: Path) -> None:
    with pytest.raises(RepositoryError, match="does not publish other"):
        Staging(settings(tmp_path), "other").layer(digest_of(b"layer"))


def test_published_layers_are_read_from_the_storage(tmp_path: Path, storage: Path) -> None:
    blob = random_archive(2)
    staging = Staging(settings(tmp_path), NAME)
    digest = digest_of(blob)
    layer = staged_layer(tmp_path / "layer", blob, staging.layer(digest).at)
    staged = StagedCatalogs.read(layer)
    local = LocalStorage(storage, storage / "data/txn")
    for name in staged.objects.names:
        local.put_all(staged.objects.directory, [name])
    # A revision of which this layer is all that there is.
    root = f"C{staged.tree.hash.hex()}\nB{staged.tree.size}\nS1\n"
    (storage / ".cvmfspublished").write_text(root)
    there, published = staged.contents(), staging.published(digest)
    for entry in mtree.read(layer / ".metadata/tree.mtree"):
        if entry.kind == mtree.FILE and b"lower" not in entry.flags:
            assert published.of(entry.path) == there.of(entry.path)
    with pytest.raises(FileNotFoundError):
        staging.published(Digest("sha256", "0" * 64))
