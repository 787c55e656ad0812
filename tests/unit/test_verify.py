"""Damage to what is published: each kind is found where it is, and mended without any other."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duccmake.demo.images import Image
from duccmake.errors import DuccmakeError
from duccmake.jobs.verify import conclude
from duccmake.jobs.verify_part import Pace, verify_part
from duccmake.oci.reference import Digest
from duccmake.planning.verdict import Verdict
from duccmake.repository.damage import Kind, Thing
from duccmake.run.maintenance import verification
from duccmake.tree.mtree import encode
from duccmake.workspace.results import content_store
from support.images import LayerBuilder, push
from support.mending import Site
from support.registry import FullRegistry
from support.samples import AMD64
from support.servers import free_port
from support.staged_trees import listing

TREES_OF = (Kind.FLAT, Kind.LAYER)
BASE = LayerBuilder().dir("etc").file("etc/base", "of all").layer()


def app(tag: str) -> Image:
    """An image with a layer of its own above one of all."""
    own = LayerBuilder().dir("opt").file("opt/tool", f"tool {tag}", mode=0o4755)
    own.file("opt/data", f"data of {tag}").symlink("opt/link", "data").dir("opt/empty")
    if tag != "store-tree":  # where a directory is only implied, podman's store has a tree
        own.dir("etc")
    own.dir("hidden").opaque("hidden").whiteout("etc/.gone")
    return Image((BASE, own.layer()), {}, platform=AMD64)


@dataclass
class Place:
    """Where an image lies in a plain directory."""

    root: Path
    name: str

    @property
    def record(self) -> Path:
        return self.root / ".metadata" / self.name / "record.json"

    @property
    def manifest(self) -> Path:
        return self.record.with_name("manifest.json")

    @property
    def members(self) -> dict[str, object]:
        return json.loads(self.record.read_text())

    @property
    def link(self) -> Path:
        return self.root / self.name

    @property
    def flat(self) -> Path:
        return self._at(".flat", str(self.members["config"]))

    @property
    def flat_metadata(self) -> Path:
        return self._at(".metadata/.flat", str(self.members["config"]))

    @property
    def layer(self) -> Path:
        return self._at(".layers", str(self.members["layers"][-1]))

    @property
    def store(self) -> Path:
        return self.root / "podmanStore"

    @property
    def top(self) -> str:
        """The id of its uppermost layer in podman's store."""
        images = json.loads((self.store / "overlay-images/images.json").read_text())
        [entry] = [one for one in images if self.name in one["published"]]
        return entry["layer"]

    def _at(self, base: str, digest: str) -> Path:
        digits = Digest.parse(digest).hex
        return self.root / base / digits[:2] / digits

    def edit(self, path: Path, change: Callable[[object], object]) -> None:
        members = json.loads(path.read_text())
        path.write_text(json.dumps(change(members)))


Damage = Callable[[Place], object]


def alter(at: Place) -> None:
    path = at.flat / "opt/data"
    times = path.stat()
    path.write_text("x" * times.st_size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def lead(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def without_top(at: Place) -> None:
    index, top = at.store / "overlay-layers/layers.json", at.top
    at.edit(index, lambda layers: [one for one in layers if one["id"] != top])


def exchange(at: Place) -> None:
    """Have the flat tree be another image's, with all that is said of it."""
    other = Place(at.root, at.name.replace(":exchanged", ":other"))
    for mine, theirs in ((at.flat, other.flat), (at.flat_metadata, other.flat_metadata)):
        shutil.rmtree(mine)
        shutil.copytree(theirs, mine, symlinks=True, copy_function=os.link)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda at: (at.flat / "opt/data").unlink(), "opt/data: cannot be read"),
    "truncated": (lambda at: os.truncate(at.flat / "opt/data", 3), "opt/data: has 3 bytes"),
    "altered": (alter, "opt/data: has the sha256"),
    "extra": (lambda at: (at.flat / "opt/more").touch(), "opt/more: is not in the manifest"),
    "leftover": (lambda at: (at.flat / "opt/.wh.old").touch(), "a whiteout's marker"),
    "mode": (lambda at: (at.layer / "layerfs/opt").chmod(0o700), "opt: has the mode 0700"),
    "setuid": (
        lambda at: (at.flat / "opt/tool").chmod(0o755),
        "has the mode 0755, the manifest 4755",
    ),
    "unhidden": (
        lambda at: [
            os.removexattr(at.layer / "layerfs/hidden", name)
            for name in os.listxattr(at.layer / "layerfs/hidden")
        ],
        "hidden: lacks the mark of an opaque directory",
    ),
    "unhides": (lambda at: (at.layer / "layerfs/etc/.gone").unlink(), "etc/.gone: cannot be read"),
    "relinked": (lambda at: lead(at.flat / "opt/link", "/etc/shadow"), "opt/link: leads to"),
    "dangling": (
        lambda at: lead(at.link, "../../.flat/no/where"),
        "app:dangling: the link leads to",
    ),
    "unlinked": (lambda at: at.link.unlink(), "app:unlinked: the link is missing"),
    "lost-layer": (lambda at: shutil.rmtree(at.layer), "layerfs: is missing"),
    "lost-flat": (lambda at: shutil.rmtree(at.flat), "is missing"),
    "measured": (
        lambda at: (at.layer / ".metadata/layers.json").write_text("[]"),
        "layers.json: is missing, damaged",
    ),
    "mtree": (
        lambda at: (at.layer / ".metadata/tree.mtree").write_text("#mtree\n./etc type=d\n"),
        "its manifest is damaged",
    ),
    "lost-mtree": (lambda at: (at.flat_metadata / "tree.mtree").unlink(), "has no manifest"),
    "lost-note": (lambda at: (at.flat_metadata / "flat.json").unlink(), "flat.json: is missing"),
    "exchanged": (exchange, "was made of other layers"),
    "store-index": (without_top, "has no"),
    "store-link": (
        lambda at: lead(at.store / "overlay" / at.top / "diff", "/etc"),
        "leads to /etc",
    ),
    "store-tree": (
        lambda at: (at.store / "overlay" / at.top / "diff/opt/data").unlink(),
        "diff/opt/data: cannot be read",
    ),
    "store-config": (
        lambda at: next((at.store / "overlay-images" / at.flat.name).glob("=*")).write_text("{}"),
        "of the image is damaged",
    ),
    "record": (
        lambda at: at.edit(at.record, lambda record: {**record, "layers": record["layers"][:1]}),
        "are not those of the manifest",
    ),
    "no-record": (lambda at: at.record.write_text("{"), "record.json: is damaged"),
    "manifest": (lambda at: at.manifest.write_text("{}"), "manifest.json: has the sha256"),
    "no-manifest": (lambda at: at.manifest.unlink(), "manifest.json: is missing"),
}

if os.geteuid() != 0:  # then neither can be made
    del DAMAGES["unhidden"], DAMAGES["unhides"]


@pytest.fixture
def registry(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FullRegistry]:
    monkeypatch.chdir(memory)
    with FullRegistry(memory / "registry", port=free_port()) as registry:
        yield registry


@pytest.fixture
def site(registry: FullRegistry) -> Site:
    return Site(registry)


def root_of(site: Site) -> Path:
    return Path("root") / site.name


def test_each_kind_of_damage_is_found_where_it_is_and_mended(site: Site):
    site.publish({tag: app(tag) for tag in (*DAMAGES, "other")})
    root = root_of(site)
    assert site.verify(content=True) == []
    for tag, (damage, _) in DAMAGES.items():
        damage(Place(root, site.named(tag)))
    found = site.verify(content=True)
    told = {
        tag: [str(one) for thing in found for one in thing.damage if site.named(tag) in thing.users]
        for tag in (*DAMAGES, "other")
    }
    for tag, (_, words) in DAMAGES.items():
        assert any(words in line for line in told[tag]), (tag, words, told[tag])
    assert told["other"] == []
    assert site.repair() == []
    assert site.verify(content=True) == []


# --- generated ---

NAMES = st.sampled_from(["a", "b c", "d\\", "e\n", "ä", ".wh", "-x"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
TREES = st.dictionaries(PATHS, st.tuples(st.sampled_from([0o644, 0o4755, 0o600]), st.binary()))
"""Files by path; what is a file and a directory at once is a directory."""


def spoil_mode(path: Path) -> None:
    path.chmod(stat.S_IMODE(path.stat().st_mode) ^ 0o4111)


def spoil_content(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def spoil_type(path: Path) -> None:
    path.unlink()
    path.mkdir()


def spoil_owner(path: Path) -> None:
    os.chown(path, 12, 34)


SPOILERS: list[Callable[[Path], object]] = [
    Path.unlink,
    spoil_mode,
    spoil_content,
    spoil_type,
    lambda path: lead(path, "elsewhere"),
    *([spoil_owner] if os.geteuid() == 0 else []),
]


@given(tree=TREES, data=st.data())
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_damage_is_found_at_its_path_and_mended_and_no_other_tree_is_touched(
    registry: FullRegistry, tree: dict[tuple[str, ...], tuple[int, bytes]], data: st.DataObject
):
    shutil.rmtree("root", ignore_errors=True)
    shutil.rmtree("results", ignore_errors=True)
    site = Site(registry)
    files = {
        "/".join(path): what
        for path, what in tree.items()
        if not any(other[: len(path)] == path for other in tree if other != path)
    }
    layer = LayerBuilder().dir("own")
    for path, (mode, content) in files.items():
        layer.file(f"own/{path}", content, mode=mode)
    site.publish({"1": Image((BASE, layer.layer()), {}, platform=AMD64), "other": app("other")})
    damaged, other = (Place(root_of(site), site.named(tag)) for tag in ("1", "other"))
    before = untouched(other)
    flat_or_layer = data.draw(st.sampled_from([damaged.flat, damaged.layer / "layerfs"]))
    spoiled = [flat_or_layer / "own/extra"]
    spoiled[0].write_text("more")
    for path in (
        data.draw(st.lists(st.sampled_from(sorted(files)), max_size=3, unique=True))
        if files
        else ()
    ):
        spoiled.append(flat_or_layer / "own" / path)
        data.draw(st.sampled_from(SPOILERS))(spoiled[-1])
    found = site.verify()
    assert {site.named("1")} == {name for one in found for name in one.users}
    told = {one.path for thing in found for one in thing.damage}
    for path in spoiled:
        assert encode(os.fsencode(path.relative_to(damaged.root))).decode() in told
    assert site.repair() == []
    assert site.verify(content=True) == []
    assert untouched(other) == before


def untouched(at: Place) -> dict[str, object]:
    """All of the trees of an image, with what tells whether anything was made anew."""
    return {
        str(path): (path.lstat().st_ino, path.lstat().st_ctime_ns)
        for tree in (at.flat, at.layer)
        for path in (tree, *tree.rglob("*"))
        # What is shared with a tree that is made anew gets another link, or loses one.
        if path.is_symlink() or path.is_dir() or path.lstat().st_nlink == 2
    }


# --- what cannot be mended, and whom else it concerns ---


def test_what_its_registry_has_no_more_is_said_and_stays_and_others_are_mended(site: Site):
    images = {tag: app(tag) for tag in ("1", "2")}
    site.publish(images)
    gone, there = (Place(root_of(site), site.named(tag)) for tag in images)
    for at in (gone, there):
        (at.flat / "opt/data").write_text("damaged")
    assert site.verify()
    site.registry.store.blob_path(images["1"].layers[1].digest).unlink()
    before = listing(gone.flat)
    failures = site.repair()
    assert any("404" in line for line in failures)
    assert all(site.named("1") in line for line in failures), failures
    assert listing(gone.flat) == before
    assert listing(there.flat)["opt/data"][-1] == b"data of 2"
    assert {name for one in site.verify() for name in one.users} == {site.named("1")}


def test_an_image_that_nobody_wishes_for_any_more_is_mended_by_its_record(site: Site):
    site.publish({tag: app(tag) for tag in ("1", "2")})
    wishes = Path("recipe.yaml")
    wishes.write_text(wishes.read_text().replace("app:*", "app:2"))
    shutil.rmtree("results")
    lost = Place(root_of(site), site.named("1"))
    (lost.flat / "opt/data").unlink()
    site.verify()
    site.members["registries"] = {site.registry.host: {"scheme": "http"}}
    assert site.repair() == []
    assert (lost.flat / "opt/data").read_text() == "data of 1"


def test_a_tag_that_has_moved_is_mended_as_it_was_published(site: Site):
    site.publish({"1": app("1")})
    at = Place(root_of(site), site.named("1"))
    (at.flat / "opt/data").unlink()
    site.verify()
    push(app("2"), site.registry.host, "team/app", "1")
    assert site.repair() == []
    assert (at.flat / "opt/data").read_text() == "data of 1"


def test_an_image_of_ducc_is_looked_through_and_converted(site: Site):
    site.members["products"] = ["layers", "flat"]
    site.publish({tag: app(tag) for tag in ("1", "2")})
    at = Place(root_of(site), site.named("1"))
    layer, flat, metadata = at.layer, at.flat, at.flat_metadata
    marker = flat / "opt/.wh.gone"
    marker.touch()
    shutil.rmtree(metadata)
    for one in (layer / ".metadata/tree.mtree", layer / ".metadata/layers.json", at.record):
        one.unlink()
    told = [str(damage) for one in site.verify() for damage in one.damage]
    assert any(".wh.gone: is a whiteout's marker" in line for line in told)
    assert site.repair() == []
    assert not marker.exists()
    assert site.verify(content=True) == []


def test_only_images_that_are_asked_for_are_mended_with_all_that_share_what_is_damaged(site: Site):
    site.publish({tag: app(tag) for tag in ("1", "2", "3")})
    at = {tag: Place(root_of(site), site.named(tag)) for tag in ("1", "2", "3")}
    (at["1"].flat / "opt/data").unlink()
    (at["3"].flat / "opt/data").unlink()
    assert len(site.verify()) == 2
    assert [image.reference.tag for image in site.planned(images=["*:1"]).images] == ["1"]
    assert site.repair(images=["*:1"]) == []
    assert [list(one.users) for one in site.verify()] == [[site.named("3")]]
    [base] = {at[tag].members["layers"][0] for tag in at}
    digits = Digest.parse(base).hex
    (root_of(site) / ".layers" / digits[:2] / digits / "layerfs/etc/base").write_text("other")
    site.verify()
    assert len(site.planned(images=["*:1"]).images) == 3
    assert site.repair(images=["*:1"]) == []
    assert site.verify(content=True) == []
    assert {(at[tag].flat / "etc/base").read_text() for tag in at} == {"of all"}


def test_images_of_one_configuration_over_other_blobs_are_whole_and_mended_together(site: Site):
    own = LayerBuilder().dir("opt").file("opt/data", "data")
    gzipped, plain = (Image((BASE, own.layer(how)), {}, platform=AMD64) for how in ("gzip", "none"))
    assert gzipped.config_bytes == plain.config_bytes
    site.publish({"1": gzipped, "2": plain})
    assert site.verify(content=True) == []
    at = Place(root_of(site), site.named("2"))
    (at.flat / "opt/data").unlink()
    (at.layer / "layerfs/opt/data").unlink()
    assert {name for one in site.verify() for name in one.users} == {
        site.named("1"),
        site.named("2"),
    }
    assert site.repair() == []
    assert site.verify(content=True) == []


def test_nothing_is_mended_before_anything_was_verified(site: Site):
    site.publish({"1": app("1")})
    [line] = site.repair()
    assert "run 'snakemake verify' first" in line


# --- what is looked at ---


def test_a_sample_is_drawn_by_its_seed(site: Site):
    site.publish({tag: app(tag) for tag in ("1", "2", "3")})

    def drawn(**asked) -> set[Thing]:
        _, parts = verification(site.planned(), site.config(**asked), keep=False)
        return {thing for part in parts for thing in part.things if thing.kind in TREES_OF}

    assert len(drawn()) == 7
    assert len(drawn(sample=0.3, seed=1)) == 2
    assert drawn(sample=0.3, seed=1) == drawn(sample=0.3, seed=1)
    assert len({frozenset(drawn(sample=0.3, seed=seed)) for seed in range(1, 20)}) > 3
    assert len(drawn(sample=0.0001)) == 1


def test_what_was_found_before_stays_known_until_it_is_looked_at_again(site: Site):
    site.publish({tag: app(tag) for tag in ("1", "2")})
    at = Place(root_of(site), site.named("1"))
    content = (at.flat / "opt/link").readlink()
    times = (at.flat / "opt/link").lstat().st_mtime_ns, (at.flat / "opt").stat().st_mtime_ns
    lead(at.flat / "opt/link", "elsewhere")
    assert site.verify()
    assert site.verify(images=["*:2"]) == []
    verdict = Verdict.load(site.name)
    assert verdict
    assert verdict.damage_of(site.named("1"), str(at.members["manifest"]))
    assert not verdict.damage_of(site.named("2"), "sha256:0")
    lead(at.flat / "opt/link", str(content))
    for path, ns in zip((at.flat / "opt/link", at.flat / "opt"), times, strict=True):
        os.utime(path, ns=(ns, ns), follow_symlinks=False)
    assert site.verify() == []
    assert Verdict.load(site.name).found == ()


def test_an_interrupted_verification_goes_on_with_the_parts_that_are_not_done(site: Site):
    site.publish({str(tag): app(str(tag)) for tag in range(6)})
    config = site.config(sample=0.9)
    seed, parts = verification(site.planned(), config, keep=True)
    assert len(parts) > 1
    verify_part(parts[0], site.repository, content_store(), Pace(0))
    again, same = verification(site.planned(), config, keep=True)
    assert (again, [part.output for part in same]) == (seed, [part.output for part in parts])
    assert parts[0].output.exists()
    for part in parts:
        verify_part(part, site.repository, content_store(), Pace(0))
    list(conclude([part.output for part in parts], config, seed))
    assert not parts[0].output.exists()
    assert verification(site.planned(), config, keep=True)[0] != seed


def test_what_somebody_removes_meanwhile_is_no_damage(site: Site):
    site.publish({tag: app(tag) for tag in ("1", "2")})
    _, parts = verification(site.planned(), site.config(), keep=True)
    at = Place(root_of(site), site.named("1"))
    for path in (at.flat, at.layer, at.record.parent):
        shutil.rmtree(path)
    at.link.unlink()
    found = [
        one
        for part in parts
        for one in verify_part(part, site.repository, content_store(), Pace(0))
    ]
    assert [one for one in found if site.named("1") in one.users] == []


def test_a_name_that_no_image_has_is_a_mistake(site: Site):
    site.publish({"1": app("1")})
    with pytest.raises(DuccmakeError, match="no published image is called team/none"):
        site.verify(images=["team/none"])


def test_no_more_is_read_in_a_second_than_is_wished_for():
    now = [100.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(1000, lambda: now[0], sleep)
    for _ in range(10):
        pace(500)
    assert sum(slept) == pytest.approx(5)
    now[0] += 3600
    slept.clear()
    for _ in range(4):
        pace(1000)
    assert sum(slept) == pytest.approx(3)
