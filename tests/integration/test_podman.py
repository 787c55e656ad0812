"""podman and Buildah, as Debian has them, over ``podmanStore`` of a published repository."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.layer.zstd import zstd
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.edits import Edits
from duccmake.repository.inventory import survey as look_through
from duccmake.repository.podman.layers import chain
from duccmake.repository.removal import FLAT, LAYER, Thing, remove, withdraw
from support import oracles, pipeline, podman_client
from support.images import Layer, LayerBuilder, write_oci_layout
from support.podman_client import Podman, podman

PRODUCTS = ("layers", "flat", "podman")
APP, OTHER_TAG, HUB = (
    "registry.example.org/team/app:1",
    "registry.example.org/team/app:one",
    ("registry.hub.docker.com/library/app:1"),
)
BASE, REPEATED, EMPTY, NOTHING, THROUGH = (
    f"registry.example.org/team/{name}:1"
    for name in ("base", "repeated", "empty", "nothing", "through")
)
ZSTD = "registry.example.org/team/app:zstd"


@pytest.fixture(scope="module")
def images() -> Mapping[str, Image]:
    base, top, empty = (
        podman_client.base_layer(),
        podman_client.top_layer().layer(),
        Layer(bytes(1024)),
    )
    link = LayerBuilder().symlink("link", "opt").layer()
    through = LayerBuilder().whiteout("link/a").file("link/d", "d\n").layer()
    app = Image((base, top), {"Cmd": ["/bin/busybox", "echo", "it runs"], "Env": ["A=b"]})
    return {
        BASE: Image((base,)),
        APP: app,
        OTHER_TAG: app,
        HUB: app,
        ZSTD: replace(app, layers=(base, Layer(top.tar, "zstd"))),
        REPEATED: Image((base, top, base)),
        EMPTY: Image((empty, base, empty, top, empty, empty)),
        NOTHING: Image(()),
        THROUGH: Image((base, link, through)),
    }


class Published:
    """A repository that everybody can read, which images are published into one by one."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.repository = DirectoryRepository(base / "cvmfs", "images.example.org", durable=False)
        self.store = self.repository.path / "podmanStore"
        self._number = 0

    def publish(self, name: str, image: Image) -> None:
        self._number += 1
        staging = self.base / f"staging{self._number}"
        staged = pipeline.stage(name, image, staging, PRODUCTS)
        with self.repository.lock():
            self.repository.publish(pipeline.change_set([staged], staging))
        shutil.rmtree(staging)

    def withdraw(self, *names: str) -> None:
        with self.repository.lock():
            edits = Edits(self.repository.view)
            found = look_through(self.repository.view)
            withdraw(edits, dict.fromkeys(names, "test"), found, 1.0)
            self.repository.edit(edits)

    def collect(self) -> None:
        """Remove all that nothing uses."""
        with self.repository.lock():
            found = look_through(self.repository.view)
            unused = [Thing(FLAT, key) for key in found.present.flats - found.used.flats]
            unused += [Thing(LAYER, key) for key in found.present.layers - found.used.layers]
            edits = Edits(self.repository.view)
            remove(edits, unused, found.used)
            self.repository.edit(edits)

    def dangling(self) -> list[str]:
        """Links of the store that lead nowhere."""
        return [str(path) for path in self.store.rglob("*") if not path.exists()]


@pytest.fixture
def fresh() -> Iterator[Published]:
    yield from _published()


@pytest.fixture(scope="module")
def published(images: Mapping[str, Image]) -> Iterator[Published]:
    for found in _published():
        for name, image in images.items():
            found.publish(name, image)
        yield found


def _published() -> Iterator[Published]:
    podman_client.need_podman()
    base = Path(tempfile.mkdtemp(prefix="published"))
    base.chmod(0o755)
    try:
        yield Published(base)
    finally:
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def user() -> Iterator[None]:
    podman_client.need_podman()
    with podman_client.another_user():
        yield


@pytest.fixture(
    scope="module",
    params=[("kernel", False), ("fuse", False), ("kernel", True), ("fuse", True)],
    ids=["root-kernel", "root-fuse", "rootless-kernel", "rootless-fuse"],
)
def client(request: pytest.FixtureRequest, published: Published) -> Iterator[Podman]:
    """Each way of using the store."""
    driver, rootless = request.param
    if rootless:
        request.getfixturevalue("user")
    with podman(published.store, driver=driver, rootless=rootless) as client:
        yield client


@pytest.fixture(scope="module")
def root_client(published: Published) -> Iterator[Podman]:
    with podman(published.store) as client:
        yield client


def identity(image: Image) -> str:
    return pipeline.digest_of(image.config_bytes).hex


# --- the images of the store ----------------------------------------------


def test_podman_lists_each_image_once_with_all_its_names(
    client: Podman, images: Mapping[str, Image]
):
    found = client.images()
    assert found.keys() == {identity(image) for image in images.values()}
    assert found[identity(images[APP])] == {
        APP,
        OTHER_TAG,
        ZSTD,
        HUB,
        "docker.io/library/app:1",
    }


def test_podman_inspects_an_image_as_its_registry_describes_it(
    client: Podman, images: Mapping[str, Image]
):
    app = images[APP]
    found = client.inspect(OTHER_TAG)
    assert found["Id"] == identity(app)
    assert found["Config"]["Env"] == ["A=b"]
    assert found["RootFS"]["Layers"] == [str(layer.diff_id) for layer in app.layers]
    assert found["Size"] > sum(len(layer.tar) for layer in app.layers)


def test_an_image_is_found_by_the_digest_of_each_of_its_manifests(
    client: Podman, images: Mapping[str, Image]
):
    for name in (APP, ZSTD):
        found = client.inspect(f"registry.example.org/team/app@{images[name].digest}")
        assert found["Id"] == identity(images[APP])


def test_a_program_runs_from_the_store(client: Podman):
    assert client.run(APP, "/bin/busybox", "echo", "it runs") == "it runs"


def test_deleted_files_stay_deleted(client: Podman):
    assert _tree(client.run(APP, "/bin/busybox", "find", "/etc/new", "/opt", "/srv")) == {
        "/etc/new",
        "/opt",
        "/opt/c",
        "/srv",
    }
    assert client.run(APP, "/bin/busybox", "sh", "-c", "test -e /etc/old || echo gone") == "gone"


def test_a_layer_that_comes_again_further_up_shows_again(client: Podman):
    command = ("/bin/busybox", "find", "/etc/old", "/etc/new", "/opt", "/srv")
    assert _tree(client.run(REPEATED, *command)) == {
        "/etc/old",
        "/etc/new",
        "/opt",
        "/opt/a",
        "/opt/b",
        "/opt/c",
        "/srv",
        "/srv/gone",
        "/srv/gone/inside",
    }


def test_empty_layers_change_nothing_wherever_they_stand(client: Podman):
    command = ("/bin/busybox", "find", "/etc/new", "/opt", "/srv")
    assert client.run(EMPTY, *command) == client.run(APP, *command)


def test_what_a_layer_does_through_a_lower_layers_symlink_is_where_that_leads(client: Podman):
    found = client.run(THROUGH, "/bin/busybox", "find", "/opt", "/link")
    assert _tree(found) == {"/opt", "/opt/b", "/opt/d", "/link"}
    assert client.run(THROUGH, "/bin/busybox", "cat", "/link/d") == "d"


def test_podman_that_pulls_has_a_layer_that_goes_through_a_symlink_right_with_vfs_alone(
    images: Mapping[str, Image], tmp_path: Path
):
    """What it shows with the driver that everybody has is no measure for such an image."""
    layers = images[THROUGH].layers
    with oracles.podman(layers, tmp_path / "vfs", "vfs") as tree:
        assert sorted(path.name for path in (tree / "opt").iterdir()) == ["b", "d"]
        assert (tree / "link").is_symlink()
    with oracles.podman(layers, tmp_path / "overlay", "overlay") as tree:
        assert sorted(path.name for path in (tree / "opt").iterdir()) == ["a", "b"]
        assert not (tree / "link").is_symlink()


def _tree(said: str) -> set[str]:
    return set(said.split())


def test_a_container_can_be_written_to(client: Podman):
    command = ("/bin/busybox", "sh", "-c", "echo w > /written && /bin/busybox cat /written")
    assert client.run(APP, *command) == "w"


def test_an_image_without_layers_is_there(client: Podman):
    found = client.inspect(NOTHING)
    assert found["RootFS"]["Layers"] in (None, [])
    assert client("create", "--network", "none", NOTHING, "/nothing")


# --- what is made of them -------------------------------------------------


@pytest.fixture(scope="module", params=["kernel", "fuse"])
def own_storage(
    request: pytest.FixtureRequest,
    images: Mapping[str, Image],
    tmp_path_factory: pytest.TempPathFactory,
    published: Published,
) -> Iterator[tuple[Podman, Podman]]:
    """podman that has pulled the images, and podman that has them from the store."""
    layouts = tmp_path_factory.mktemp("layouts")
    with (
        podman(None, driver=request.param) as pulled,
        podman(published.store, driver=request.param) as additional,
    ):
        for number, image in enumerate((images[BASE], images[APP], images[EMPTY])):
            write_oci_layout(image, layouts / str(number), "t")
            pulled("pull", "--quiet", f"oci:{layouts}/{number}:t")
        yield pulled, additional


@pytest.mark.parametrize("name", [BASE, APP, EMPTY])
def test_image_diff_says_what_it_says_of_an_image_that_was_pulled(
    own_storage: tuple[Podman, Podman], images: Mapping[str, Image], name: str
):
    pulled, additional = own_storage
    found, wanted = additional.diff(name), pulled.diff(identity(images[name]))
    assert _in_other_words(found) == _in_other_words(wanted)


def _in_other_words(changes: set[str]) -> set[str]:
    """That all in ``opt`` is gone may be said of each name in it."""
    spelled = {"C /opt", "D /opt/a", "D /opt/b"}
    return changes - spelled | {"D /opt"} if spelled <= changes else changes


def test_image_diff_shows_deletions_without_root(published: Published, user: None):
    with podman(published.store, rootless=True) as client:
        found = client.diff(APP)
    assert {"A /etc/new", "D /etc/old", "A /opt/c", "D /opt/a"} <= found


@pytest.mark.parametrize("rootless", [False, True], ids=["root", "rootless"])
def test_buildah_builds_on_an_image_of_the_store_without_copying_its_layers(
    published: Published, images: Mapping[str, Image], user: None, rootless: bool
):
    with podman(published.store, rootless=rootless) as client:
        client.committed(APP, "touch $tree/added", "localhost/built:1")
        [layer] = client.own_layers()
        assert layer["parent"] == chain([one.diff_id for one in images[APP].layers])[-1].id
        assert client.diff("localhost/built:1") >= {"A /added"}
        assert "/added" in client.inside("localhost/built:1", "/bin/busybox", "find", "/added")


@pytest.mark.parametrize("name", [APP, REPEATED, EMPTY])
def test_an_image_of_the_store_is_saved_and_pushed_as_it_was_pushed(
    client: Podman, published: Published, images: Mapping[str, Image], name: str
):
    out = Path(tempfile.mkdtemp(prefix="out", dir=published.base))
    out.chmod(0o777)
    image = images[name]
    client("save", "--format", "oci-dir", "--output", f"{out}/saved", name)
    client("push", name, f"oci:{out}/pushed:t")
    for place in (out / "saved", out / "pushed"):
        blobs = place / "blobs/sha256"
        [entry] = json.loads((place / "index.json").read_bytes())["manifests"]
        manifest = json.loads((blobs / entry["digest"].rpartition(":")[2]).read_bytes())
        assert manifest["config"]["digest"].rpartition(":")[2] == identity(image)
        for layer, wanted in zip(manifest["layers"], image.layers, strict=True):
            blob = (blobs / layer["digest"].rpartition(":")[2]).read_bytes()
            assert uncompressed(blob) == wanted.tar


def uncompressed(blob: bytes) -> bytes:
    if blob.startswith(b"\x28\xb5\x2f\xfd"):
        return zstd.decompress(blob)
    return gzip.decompress(blob) if blob.startswith(b"\x1f\x8b") else blob


def test_image_that_goes_takes_what_it_was_saved_by_with_it(
    fresh: Published, images: Mapping[str, Image]
):
    """And another one that comes later, with the same layer on others, has it from there."""
    base, top = images[APP].layers
    fresh.publish(APP, images[APP])
    fresh.publish(REPEATED, Image((top, base)))
    splits = sorted(path.name for path in fresh.store.glob("overlay-layers/*.tar-split.gz"))
    listed = json.loads((fresh.store / "overlay-layers/layers.json").read_bytes())
    assert splits == sorted(f"{layer['id']}.tar-split.gz" for layer in listed)
    assert len(splits) == 4
    fresh.withdraw(APP, REPEATED)
    fresh.collect()
    assert list(fresh.store.glob("overlay-layers/*.tar-split.gz")) == []


def test_pulling_takes_the_layers_that_the_store_has_from_there(
    root_client: Podman, images: Mapping[str, Image], tmp_path: Path
):
    base, top = images[APP].layers
    more = LayerBuilder().file("etc/more", "more\n").layer()
    write_oci_layout(Image((base, top, more)), tmp_path / "oci", "t")
    for layer in (base, top):
        (tmp_path / f"oci/blobs/sha256/{layer.digest.hex}").unlink()
    pulled = root_client("pull", "--quiet", f"oci:{tmp_path}/oci:t").splitlines()[-1]
    assert [layer["diff-digest"] for layer in root_client.own_layers()] == [str(more.diff_id)]
    assert root_client.inside(pulled, "/bin/busybox", "cat", "/etc/new", "/etc/more") == "new\nmore"


def test_pulling_an_image_of_the_store_fetches_no_layer(
    published: Published, images: Mapping[str, Image], tmp_path: Path
):
    write_oci_layout(images[APP], tmp_path / "oci", "t")
    for layer in images[APP].layers:
        (tmp_path / f"oci/blobs/sha256/{layer.digest.hex}").unlink()
    with podman(published.store) as client:
        pulled = client("pull", "--quiet", f"oci:{tmp_path}/oci:t").splitlines()[-1]
        assert pulled == identity(images[APP])
        assert client.own_layers() == []
        assert client.inside(pulled, "/bin/busybox", "cat", "/etc/new") == "new"


def test_podman_changes_nothing_in_a_store_that_it_may_only_read(published: Published, user: None):
    before = sorted(str(path) for path in published.store.rglob("*"))
    with podman(published.store, rootless=True) as client:
        client.run(APP, "/bin/busybox", "true")
        client.diff(APP)
    assert sorted(str(path) for path in published.store.rglob("*")) == before


# --- what moves and what goes ---------------------------------------------


def test_a_moved_tag_leaves_the_old_image_to_be_found_by_its_digest(
    fresh: Published, images: Mapping[str, Image]
):
    old, new = images[BASE], images[APP]
    fresh.publish(APP, old)
    fresh.publish(APP, new)
    pinned = f"registry.example.org/team/app@{old.digest}"
    with podman(fresh.store) as client:
        assert client.images() == {identity(old): {pinned}, identity(new): {APP}}
        assert client.inspect(pinned)["Id"] == identity(old)
        assert client.inside(pinned, "/bin/busybox", "cat", "/etc/old") == "old"


def test_a_name_that_is_withdrawn_stays_for_the_digest_until_the_image_is_collected(
    fresh: Published, images: Mapping[str, Image]
):
    fresh.publish(BASE, images[BASE])
    fresh.publish(APP, images[APP])
    fresh.withdraw(APP)
    with podman(fresh.store) as client:
        pinned = f"registry.example.org/team/app@{images[APP].digest}"
        assert client.images()[identity(images[APP])] == {pinned}
    fresh.collect()
    assert fresh.dangling() == []
    with podman(fresh.store) as client:
        assert client.images() == {identity(images[BASE]): {BASE}}
        assert client.inside(BASE, "/bin/busybox", "cat", "/etc/old") == "old"
    fresh.withdraw(BASE)
    fresh.collect()
    left = {path.name for path in fresh.store.rglob("*") if not path.is_dir()}
    assert left == {"images.json", "images.lock", "layers.json", "layers.lock"}
    with podman(fresh.store) as client:
        assert client.images() == {}


def test_one_of_two_names_can_go(fresh: Published, images: Mapping[str, Image]):
    fresh.publish(APP, images[APP])
    fresh.publish(OTHER_TAG, images[APP])
    fresh.withdraw(APP)
    fresh.collect()
    with podman(fresh.store) as client:
        assert client.images() == {identity(images[APP]): {OTHER_TAG}}
        assert client.inside(OTHER_TAG, "/bin/busybox", "cat", "/etc/new") == "new"


def test_a_layer_in_another_compression_takes_the_place_of_one_that_is_removed(
    fresh: Published, images: Mapping[str, Image]
):
    fresh.publish(APP, images[APP])
    fresh.publish(ZSTD, images[ZSTD])
    fresh.withdraw(APP)
    fresh.collect()
    assert fresh.dangling() == []
    with podman(fresh.store) as client:
        assert client.images() == {identity(images[APP]): {ZSTD}}
        assert client.inspect(ZSTD)["Digest"] == str(images[ZSTD].digest)
        assert client.inside(ZSTD, "/bin/busybox", "cat", "/etc/new") == "new"


def test_an_image_that_is_wished_by_the_digest_of_its_index_is_found_by_it(
    fresh: Published, images: Mapping[str, Image]
):
    wished = f"registry.example.org/team/app@{pipeline.digest_of(b'an index')}"
    fresh.publish(wished, images[APP])
    with podman(fresh.store) as client:
        assert client.images() == {identity(images[APP]): {wished}}
        assert client.inspect(wished)["Id"] == identity(images[APP])
        assert client.run(wished, "/bin/busybox", "cat", "/etc/new") == "new"
        client.committed(wished, "touch $tree/added", "localhost/built:1")
