from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.errors import DuccmakeError, ManifestError, RepositoryError
from duccmake.oci.reference import Digest
from duccmake.repository import podman
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.edits import Edits
from duccmake.repository.metadata import wished_record
from duccmake.repository.model import ImageRecord, StagedImage
from duccmake.repository.podman.layers import chain, layer_id
from duccmake.repository.podman.names import names_of
from duccmake.repository.view import DirectoryView
from support import pipeline
from support.images import Layer, LayerBuilder
from support.on_disk import OnDisk
from support.staged_trees import digest_of

APP, OTHER = "registry.example.org/team/app:1", "registry.example.org/team/app:2"


def layer(text: str, compression="gzip") -> Layer:
    return LayerBuilder().file("file", text).layer(compression)


BASE, TOP, EMPTY = layer("base"), layer("top"), Layer(bytes(1024))


class Store:
    """A repository in which layers are directories with nothing in them but what was measured."""

    def __init__(self, base: Path, **settings) -> None:
        self.repository = DirectoryRepository(base, "test.example.org", durable=False, **settings)
        self.root = self.repository.path / "podmanStore"

    def staged(self, name: str, image: Image, **members) -> StagedImage:
        return replace(pipeline.staged(name, image, None, ("layers", "podman")), **members)

    def publish(self, *staged: StagedImage) -> None:
        for layer in {layer for one in staged for layer in one.measured or ()}:
            OnDisk(self.repository.path).layerfs(layer.digest).mkdir(parents=True, exist_ok=True)
            manifest = OnDisk(self.repository.path).layer_manifest(layer.digest)
            manifest.parent.mkdir(exist_ok=True)
            manifest.touch()
            listing = json.dumps(layer.to_json("2024-01-01T00:00:00Z"))
            manifest.with_name("layers.json").write_text(listing)
        self.edit(lambda edits: podman.publish(edits, staged))

    def without(self, **what) -> None:
        self.edit(lambda edits: podman.without(edits, **what))

    def differences(self, staged: StagedImage) -> list[str]:
        record = wished_record(staged, {})
        found = podman.differences(self.repository.view, record, lambda *trees: iter(()))
        return list(map(str, found))

    def edit(self, change) -> None:
        with self.repository.lock():
            edits = Edits(self.repository.view)
            change(edits)
            self.repository.edit(edits)

    def index(self, kind: str) -> dict[str, dict]:
        entries = json.loads((self.root / f"overlay-{kind}/{kind}.json").read_bytes())
        assert len({entry["id"] for entry in entries}) == len(entries)
        return {entry["id"]: entry for entry in entries}

    def names(self, image: Image) -> list[str]:
        return self.index("images")[identity(image)]["names"]

    def data(self, image: Image) -> list[str]:
        return sorted(
            path.name for path in (self.root / "overlay-images" / identity(image)).iterdir()
        )

    def target(self, diff_ids: list[Digest]) -> Path:
        return (self.root / "overlay" / chain(diff_ids)[-1].id / "diff").readlink()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def identity(image: Image) -> str:
    return digest_of(image.config_bytes).hex


# --- names ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (APP, [APP]),
        ("docker.io/library/debian:12", ["docker.io/library/debian:12"]),
        ("index.docker.io/library/debian:12", ["docker.io/library/debian:12"]),
        (
            "registry.hub.docker.com/library/debian:12",
            ["docker.io/library/debian:12", "registry.hub.docker.com/library/debian:12"],
        ),
        ("localhost:5000/team/app:1", ["localhost:5000/team/app:1"]),
        ("oci/srv/ci/app:1.0", ["localhost/oci/srv/ci/app:1.0"]),
        (
            f"quay.io/team/app:1@{digest_of('x')}",
            [f"quay.io/team/app@{digest_of('x')}"],
        ),
        (f"quay.io/team/app@{digest_of('x')}", [f"quay.io/team/app@{digest_of('x')}"]),
        ("oci/srv/CI/app:1.0", []),
        ("oci/%2E%2E/app:1", []),
        ("[::1]:5000/team/app:1", []),
        (f"quay.io/{'a/' * 130}a:1", []),
    ],
)
def test_a_name_is_one_that_podman_can_read_or_none(name, found):
    assert list(names_of(name)) == found


# --- layers ---------------------------------------------------------------


def test_layer_ids_are_those_of_containers_image():
    first, second = digest_of("first"), digest_of("second")
    assert layer_id("", first) == first.hex
    assert layer_id(first.hex, second) == digest_of(f"{first.hex}+{second.hex}").hex


def test_a_layer_that_comes_again_is_another_layer_and_stands_in_each_mount_once():
    a, b = digest_of("a"), digest_of("b")
    first, second, third, fourth = chain([a, b, a, a])
    assert len({first.id, second.id, third.id, fourth.id}) == 4
    assert [one.parent for one in (first, second, third, fourth)] == [
        "",
        first.id,
        second.id,
        third.id,
    ]
    assert first.lowers == ()
    assert second.lowers == (f"l/{first.link}",)
    assert third.lowers == fourth.lowers == (f"l/{second.link}",)


def test_55_layers_fit_into_a_mount_where_podmans_own_links_would_not():
    [*_, top] = chain([digest_of(str(number)) for number in range(55)])
    below, page = "/cvmfs/unpacked.example.org/podmanStore/overlay", 4096
    upper = len("lowerdir=,upperdir=,workdir=") + 2 * len(f"/var/lib/overlay/{'0' * 64}/diff")
    lowers = [f"{below}/{lower}" for lower in (f"l/{top.link}", *top.lowers)]
    assert len(":".join(lowers)) + upper < page
    assert len(":".join(f"{below}/l/{'X' * 26}" for _ in lowers)) + upper > page


# --- publishing -----------------------------------------------------------


def test_an_image_and_its_layers_are_described_in_full(store):
    image = Image((BASE, TOP))
    store.publish(store.staged(APP, image))
    config, manifest = digest_of(image.config_bytes), image.digest
    entry = store.index("images")[identity(image)]
    lower, upper = chain([BASE.diff_id, TOP.diff_id])
    assert entry["names"] == [APP]
    assert entry["layer"] == upper.id
    assert entry["digest"] == str(manifest)
    assert entry["created"] == "2024-01-01T00:00:00Z"
    assert entry["big-data-sizes"] == {
        str(config): len(image.config_bytes),
        f"manifest-{manifest}": len(image.manifest_bytes),
        "manifest": len(image.manifest_bytes),
    }
    assert store.index("layers") == {
        lower.id: {
            "id": lower.id,
            "created": "2024-01-01T00:00:00Z",
            "compressed-diff-digest": str(BASE.digest),
            "compressed-size": len(BASE.blob),
            "diff-digest": str(BASE.diff_id),
            "diff-size": len(BASE.tar),
            "compression": 2,
            "duccmake-verified": True,
        },
        upper.id: {
            "id": upper.id,
            "parent": lower.id,
            "created": "2024-01-01T00:00:00Z",
            "compressed-diff-digest": str(TOP.digest),
            "compressed-size": len(TOP.blob),
            "diff-digest": str(TOP.diff_id),
            "diff-size": len(TOP.tar),
            "compression": 2,
            "duccmake-verified": True,
        },
    }


def test_every_link_of_the_store_leads_to_a_published_layer(store):
    image = Image((EMPTY, BASE, EMPTY, TOP, BASE))
    store.publish(store.staged(APP, image))
    for path in store.root.rglob("*"):
        assert path.exists(), path
    for found, one in zip(chain([one.diff_id for one in image.layers]), image.layers, strict=True):
        directory = store.root / "overlay" / found.id
        assert (directory / "diff").resolve() == OnDisk(store.repository.path).layerfs(one.digest)
        link = store.root / "overlay/l" / (directory / "link").read_text()
        assert link.readlink() == Path(f"../{found.id}/diff")


def test_layers_that_images_share_are_in_the_index_once(store):
    store.publish(
        store.staged(APP, Image((BASE, TOP))), store.staged(OTHER, Image((BASE, layer("more"))))
    )
    store.publish(store.staged("quay.io/team/base:1", Image((BASE,))))
    assert len(store.index("layers")) == 3


def test_links_lead_to_where_the_clients_see_the_repository(tmp_path):
    store = Store(tmp_path, clients_root=Path("/net/images"))
    store.publish(store.staged(APP, Image((BASE,))))
    shard = f".layers/{BASE.digest.prefix}/{BASE.digest.hex}/layerfs"
    assert store.target([BASE.diff_id]) == Path(f"/net/images/test.example.org/{shard}")


def test_a_second_name_is_a_name_of_the_same_image(store):
    image = Image((BASE,))
    store.publish(store.staged(APP, image))
    store.publish(store.staged(OTHER, image))
    assert store.names(image) == [APP, OTHER]
    assert len(store.index("images")) == 1


def test_a_name_stands_for_one_image_even_if_two_registries_call_theirs_so(store):
    first, second = Image((BASE,)), Image((TOP,))
    hub, alias = "docker.io/library/app:1", "registry.hub.docker.com/library/app:1"
    store.publish(store.staged(hub, first))
    store.publish(store.staged(alias, second))
    assert store.names(first) == []
    assert store.names(second) == [hub, alias]


def test_an_image_for_another_platform_is_found_by_its_digest(store):
    amd64, arm64 = Image((BASE,)), Image((TOP,))
    store.publish(
        store.staged(f".multiarch/amd64/{APP}", amd64),
        store.staged(f".multiarch/arm64/{APP}", arm64),
    )
    assert store.names(amd64) == [APP]
    assert store.names(arm64) == [f"registry.example.org/team/app@{arm64.digest}"]


def test_manifests_of_all_names_of_an_image_are_kept_and_no_other(store):
    gzip = Image((BASE,))
    zstd = Image((Layer(BASE.tar, "zstd"),))
    docker = Image((BASE,), media="docker")
    assert identity(gzip) == identity(zstd) == identity(docker)
    store.publish(store.staged(APP, gzip))
    store.publish(store.staged(OTHER, zstd))
    assert len(store.data(gzip)) == 4
    assert store.index("images")[identity(gzip)]["digest"] == str(zstd.digest)
    store.publish(store.staged(OTHER, docker))
    assert len(store.data(gzip)) == 4
    data = store.root / "overlay-images" / identity(gzip)
    assert (data / "manifest").read_bytes() == docker.manifest_bytes
    store.without(names=[OTHER])
    assert len(store.data(gzip)) == 3
    assert (data / "manifest").read_bytes() == gzip.manifest_bytes


def test_one_more_image_costs_no_look_at_those_that_are_there(store, monkeypatch):
    store.publish(
        *(store.staged(f"quay.io/team/app:{n}", Image((layer(f"{n}"),))) for n in range(9))
    )
    one_more = store.staged(APP, Image((BASE,)))
    OnDisk(store.repository.path).layerfs(BASE.digest).mkdir(parents=True)
    read = []

    def noted(view, path, plainly=DirectoryView.read):
        read.append(path)
        return plainly(view, path)

    monkeypatch.setattr(DirectoryView, "read", noted)
    edits = Edits(store.repository.view)
    podman.publish(edits, [one_more])
    others = [path for path in read if store.repository.view.exists(path)]
    assert {path.name for path in others} == {
        "images.json",
        "images.lock",
        "layers.json",
        "layers.lock",
    }


def test_lock_files_tell_readers_that_run_on_of_every_change(store):
    locks = [store.root / f"overlay-{kind}/{kind}.lock" for kind in ("images", "layers")]
    store.publish(store.staged(APP, Image((BASE,))))
    before = [lock.read_bytes() for lock in locks]
    assert [len(content) for content in before] == [64, 64]
    store.publish(store.staged(OTHER, Image((BASE,))))
    assert locks[0].read_bytes() != before[0]
    assert locks[1].read_bytes() == before[1]


def test_publishing_again_changes_nothing(store):
    staged = store.staged(APP, Image((BASE, TOP)))
    store.publish(staged)
    edits = Edits(store.repository.view)
    podman.publish(edits, [staged])
    assert not edits.puts
    assert not edits.removals


def test_an_image_that_shall_not_be_in_the_store_makes_none(store):
    store.publish(store.staged(APP, Image((BASE,)), products=("layers", "flat")))
    assert not store.root.exists()


def test_an_image_that_shall_not_be_in_the_store_any_more_loses_its_name_there(store):
    old, new = Image((BASE,)), Image((TOP,))
    store.publish(store.staged(APP, old))
    store.publish(store.staged(APP, new, products=("layers", "flat")))
    assert list(store.index("images")) == [identity(old)]
    assert store.names(old) == [f"registry.example.org/team/app@{old.digest}"]


def test_an_image_that_says_not_when_it_was_made_is_of_no_time_in_the_index(store):
    config = json.loads(Image((BASE,)).config_bytes)
    del config["created"]
    staged = store.staged(APP, Image((BASE,)), config_bytes=json.dumps(config).encode())
    store.publish(staged)
    assert store.index("images")[staged.config.hex]["created"] == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize("created", ["", "yesterday", "2024-13-01T00:00:00Z", "2024-01-01"])
def test_a_configuration_that_podman_cannot_read_is_blamed_on_its_image(store, created):
    config = json.loads(Image((BASE,)).config_bytes) | {"created": created}
    with pytest.raises(ManifestError, match="created") as caught:
        store.publish(store.staged(APP, Image((BASE,)), config_bytes=json.dumps(config).encode()))
    assert caught.value.image == APP
    assert not store.root.exists()


def test_a_configuration_that_is_none_is_blamed_on_its_image(store):
    with pytest.raises(ManifestError) as caught:
        store.publish(store.staged(APP, Image((BASE,)), config_bytes=b"<html>"))
    assert caught.value.image == APP
    assert not store.root.exists()


def test_a_damaged_index_is_reported_with_the_mend_and_not_written_over(store):
    store.publish(store.staged(APP, Image((BASE,))))
    index = store.root / "overlay-images/images.json"
    index.write_bytes(b'[{"id"')
    with pytest.raises(RepositoryError, match=r"images.json is damaged; remove .*podmanStore"):
        store.publish(store.staged(OTHER, Image((TOP,))))
    assert index.read_bytes() == b'[{"id"'


def test_a_store_that_lost_an_image_does_not_hold_it(store):
    staged = store.staged(APP, Image((BASE,)))
    record = ImageRecord(
        APP, staged.platform, staged.manifest, staged.config, staged.layers, staged.products, {}
    )
    view = store.repository.view
    assert not podman.holds(view, record)
    assert podman.holds(view, replace(record, products=("layers", "flat")))
    store.publish(staged)
    assert podman.holds(view, record)


def test_an_image_that_is_whole_has_no_differences(store):
    staged = store.staged(APP, Image((BASE, EMPTY, TOP, BASE)))
    store.publish(staged)
    assert store.differences(staged) == []
    assert store.differences(replace(staged, products=("layers",))) == []


@pytest.mark.parametrize(
    ("path", "damage", "line"),
    [
        ("overlay-images/images.json", b"[]\n", "the index has no"),
        ("overlay-layers/layers.json", b"[]\n", "the index has no"),
        ("overlay-layers/layers.json", b"[{", "layers.json is damaged"),
        ("overlay-images/IMAGE/manifest", b"{}", "the manifest of the image is damaged"),
        ("overlay-images/IMAGE/manifest", None, "manifest is missing"),
        ("overlay/LAYER/link", None, "link is missing"),
        ("overlay/LAYER/diff", "../elsewhere", "leads to ../elsewhere"),
        ("overlay/l/LINK", "../elsewhere/diff", "does not lead to the layer"),
    ],
)
def test_what_is_wrong_with_an_image_of_the_store_is_told(store, path, damage, line):
    image = Image((BASE, TOP))
    staged = store.staged(APP, image)
    store.publish(staged)
    top = chain([BASE.diff_id, TOP.diff_id])[-1]
    for word, value in {"IMAGE": identity(image), "LAYER": top.id, "LINK": top.link}.items():
        path = path.replace(word, value)
    (store.root / path).unlink()
    if isinstance(damage, bytes):
        (store.root / path).write_bytes(damage)
    elif damage:
        (store.root / path).symlink_to(damage)
    [found] = store.differences(staged)
    assert line in found


def test_a_name_that_the_store_does_not_know_is_told(store):
    staged = store.staged(APP, Image((BASE,)))
    store.publish(staged)
    [found] = store.differences(replace(staged, name=OTHER))
    assert found == f"podmanStore: does not know the image as {OTHER}"


# --- removal --------------------------------------------------------------


def test_an_image_goes_with_the_layers_that_no_other_has(store):
    gone, kept = Image((BASE, TOP)), Image((BASE,))
    store.publish(store.staged(APP, gone), store.staged(OTHER, kept))
    store.without(names=[APP])
    store.without(flats=[identity(gone)], layers={TOP.digest.hex})
    assert list(store.index("images")) == [identity(kept)]
    assert list(store.index("layers")) == [BASE.diff_id.hex]
    assert len(list((store.root / "overlay/l").iterdir())) == 1
    assert not (store.root / "overlay-images" / identity(gone)).exists()


def test_an_image_without_flat_tree_goes_with_its_layers(store):
    image = Image((BASE, TOP))
    store.publish(store.staged(APP, image))
    store.without(names=[APP])
    store.without(layers={TOP.digest.hex})
    assert store.index("images") == store.index("layers") == {}


def test_a_layer_that_is_removed_is_replaced_by_one_that_unpacks_to_the_same(store):
    gzip, zstd = Image((BASE,)), Image((Layer(BASE.tar, "zstd"),))
    store.publish(store.staged(APP, gzip), store.staged(OTHER, zstd))
    assert BASE.digest.hex in str(store.target([BASE.diff_id]))
    store.without(names=[APP])
    store.without(layers={BASE.digest.hex})
    [other] = zstd.layers
    assert other.digest.hex in str(store.target([BASE.diff_id]))
    [found] = store.index("layers").values()
    assert found["compressed-diff-digest"] == str(other.digest)
    assert found["compression"] == 4


@pytest.mark.parametrize("what", [{"flats": "image"}, {"layers": "layer"}])
def test_what_a_published_image_is_made_of_is_not_removed(store, what):
    image = Image((BASE,))
    store.publish(store.staged(APP, image))
    keys = {"image": [identity(image)], "layer": {BASE.digest.hex}}
    with pytest.raises(DuccmakeError, match=rf"{APP} is published"):
        store.without(**{key: keys[value] for key, value in what.items()})
    assert list(store.index("images")) == [identity(image)]


def test_an_image_that_comes_back_has_its_name_again(store):
    staged = store.staged(APP, Image((BASE,)))
    store.publish(staged)
    store.without(names=[APP])
    store.publish(staged)
    assert store.names(Image((BASE,))) == [APP]
    assert "retired" not in store.index("images")[staged.config.hex]


def test_without_a_store_there_is_nothing_to_take_out(store):
    store.without(names=[APP], flats=["0" * 64], layers={"1" * 64})
    assert not store.root.exists()


# --- stores that DUCC left ------------------------------------------------


def test_a_store_of_ducc_is_taken_over_image_by_image(store):
    old = {"id": "a" * 64, "names": ["quay.io/team/old:1"], "layer": TOP.diff_id.hex}
    image = Image((BASE, TOP))
    again = {"id": identity(image), "names": [APP], "layer": TOP.diff_id.hex}
    twice = {"id": TOP.diff_id.hex, "parent": TOP.diff_id.hex, "diff-digest": str(TOP.diff_id)}
    write(store.root / "overlay-images/images.json", [old, again, again])
    write(store.root / "overlay-layers/layers.json", [twice, twice])
    store.publish(store.staged(APP, image))
    images, layers = store.index("images"), store.index("layers")
    assert images[old["id"]]["names"] == ["quay.io/team/old:1"]
    assert images[identity(image)]["names"] == [APP]
    assert "parent" not in layers[TOP.diff_id.hex]
    assert layers[images[identity(image)]["layer"]]["parent"] == BASE.diff_id.hex


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(value))


# --- several platforms ------------------------------------------------------


def test_of_several_platforms_amd64_has_the_name_and_the_others_their_digests(store):
    amd, arm = Image((BASE,)), Image((TOP,))
    variants = ("amd64", "arm64")
    store.publish(
        store.staged(f".multiarch/amd64/{APP}", amd, variants=variants),
        store.staged(f".multiarch/arm64/{APP}", arm, variants=variants),
    )
    assert store.names(amd) == [APP]
    assert store.names(arm) == [f"registry.example.org/team/app@{arm.digest}"]


def test_an_image_of_one_platform_gives_its_name_to_that_of_several(store):
    image, new = Image((BASE,)), Image((TOP,))
    store.publish(store.staged(APP, image))
    store.publish(store.staged(f".multiarch/amd64/{APP}", new, variants=("amd64", "arm64")))
    assert store.names(new) == [APP]
    store.without(names=[f".multiarch/amd64/{APP}"], flats=[identity(image), identity(new)])
    assert store.index("images") == {}
