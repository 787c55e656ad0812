"""Ways to use it: from a read-only checkout, several lists, tag globs, digests, pictures."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.repository.directory.backend import DirectoryRepository
from support.images import Layer, LayerBuilder
from support.pipeline import digest_of
from support.runs import REPOSITORY, Run, Work, checkout_copy, fresh_work
from support.samples import AMD64
from support.servers import need

OTHER = "other.example.org"
OPTIONS = ("--dag", "--rulegraph", "--filegraph", "--lint")


def _layer(text: str) -> Layer:
    return LayerBuilder().dir("etc").file("etc/name", text).layer()


BASE = _layer("base")


def _push(work: Work, name: str) -> Image:
    image = Image((BASE, _layer(name)), {}, platform=AMD64)
    work.push(name, image)
    return image


# --- one run that has it all --------------------------------------------


@dataclass(frozen=True)
class Site:
    """A run from a checkout that nobody can write, and what it published."""

    work: Work
    run: Run
    images: dict[str, Image]
    wished: dict[str, list[str]]
    checkout_before: dict[str, int]

    def repository(self, name: str) -> DirectoryRepository:
        return DirectoryRepository(self.work.path / "published", name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("site")
    with fresh_work(base) as work:
        yield _converted(base, work)


def _converted(base: Path, work: Work) -> Site:
    tags = ("app:1.0", "app:1.1", "app:1x0", "app:2.0", "pinned:old", "both:1")
    images = {f"team/{tag}": _push(work, f"team/{tag}") for tag in tags}
    pinned, both = images["team/pinned:old"].digest, images["team/both:1"].digest
    for name in ("team/pinned:1", "team/both:1"):
        _push(work, name)
    work.checkout = checkout = checkout_copy(base / "checkout")
    work.prefix = _without_power_to_write()
    first = work.wish("{host}/team/app:1.*", f"{{host}}/team/pinned@{pinned}", file="one.yaml")
    second = work.wish(
        "{host}/team/app:2.0", f"{{host}}/team/both:1@{both}", file="two.yaml", cvmfs_repo=OTHER
    )
    site_yaml = base / "site.yaml"
    work.configure(
        file=str(site_yaml),
        recipe=[str(first), str(second)],
        platforms=[str(AMD64)],
        repository={"root": "overridden", "flat": "copy"},
    )
    _make_read_only(checkout)
    tried = subprocess.run([*work.prefix, "touch", f"{checkout}/workflow/x"], capture_output=True)
    assert tried.returncode, "the checkout can be written after all"
    before = _times(checkout)
    run = work.run(
        *("--directory", str(work.path), "--configfile", str(site_yaml)),
        *("--config", "repository={root: published}"),
    )
    wished = {
        REPOSITORY: ["team/app:1.0", "team/app:1.1", f"team/pinned@{pinned}"],
        OTHER: ["team/app:2.0", f"team/both:1@{both}"],
    }
    return Site(work, run, images, wished, before)


def _without_power_to_write() -> tuple[str, ...]:
    """For root, a way to run that keeps to the permissions of files."""
    if os.geteuid():
        return ()
    prefix = (need("setpriv"), "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("setpriv cannot drop the power to write everywhere")
    return prefix


def _make_read_only(checkout: Path) -> None:
    for path in sorted([checkout, *checkout.rglob("*")], reverse=True):
        path.chmod(path.stat().st_mode & ~0o222)


def _times(checkout: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_ctime_ns for path in [checkout, *checkout.rglob("*")]}


def test_it_runs_from_a_read_only_checkout_and_leaves_it_alone(site: Site):
    assert site.run.status == 0, site.run.said
    assert _times(site.work.checkout) == site.checkout_before


def test_each_wish_list_fills_its_own_repository(site: Site):
    for repository, images in site.wished.items():
        named = [site.work.named(image) for image in images]
        assert sorted(site.repository(repository).names()) == sorted(named)
        for name in named:
            assert site.repository(repository).verify(name) == []


def test_a_layer_of_two_repositories_is_fetched_once(site: Site):
    assert site.run.blobs().count(str(BASE.digest)) == 1
    for repository in site.wished:
        assert site.repository(repository).has_layer(BASE.digest)


def test_repositories_are_published_into_side_by_side(tmp_path: Path):
    with fresh_work(tmp_path) as work, ExitStack() as held:
        for name, repository in (("one", REPOSITORY), ("two", OTHER)):
            _push(work, f"team/{name}:1")
            work.wish(f"{{host}}/team/{name}:1", file=f"{name}.yaml", cvmfs_repo=repository)
            # Whoever publishes there waits, and whatever waits for that would wait too long.
            held.enter_context(DirectoryRepository(work.path / "cvmfs", repository).lock())
        lists = ["config/one.yaml", "config/two.yaml"]
        work.configure(recipe=lists, repository={"lock_seconds": 60})
        with work.started("-p") as run:
            for _ in lists:
                run.read_until(lambda line: ": Publish " in line)
            held.close()
            run.read_until(lambda line: line.startswith("duccmake: 2 converted"))


def test_an_option_overrides_one_key_of_a_section_and_leaves_its_others(site: Site):
    assert not (site.work.path / "overridden").exists()
    image = site.images["team/app:1.0"]
    tree = site.repository(REPOSITORY).path / site.work.named("team/app:1.0")
    assert (tree / "etc/name").read_text() == "team/app:1.0"
    # ``flat: copy`` of the file: not a second name of the layer's.
    assert (tree / "etc/name").stat().st_nlink == 1
    assert site.repository(REPOSITORY).has_layer(image.layers[1].digest)


def test_a_tag_glob_means_all_tags_that_match_and_a_dot_in_it_is_a_dot(site: Site):
    # 1x0 is there, and `.` is no wildcard.
    names = list(site.repository(REPOSITORY).names())
    assert site.work.named("team/app:1x0") not in names
    assert {site.work.named("team/app:1.0"), site.work.named("team/app:1.1")} <= set(names)


def test_an_image_by_digest_is_that_one_whatever_its_tag_says_now(site: Site):
    for repository, name, source in (
        (REPOSITORY, site.wished[REPOSITORY][2], "team/pinned:old"),
        (OTHER, site.wished[OTHER][1], "team/both:1"),
    ):
        path = site.repository(repository).path
        manifest = path / ".metadata" / site.work.named(name) / "manifest.json"
        assert digest_of(manifest.read_bytes()) == site.images[source].digest
        assert (path / site.work.named(name) / "etc/name").read_text() == source


# --- pictures and the lint ----------------------------------------------


@pytest.fixture(scope="module")
def pictures(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[dict[str, Run], Image, Work]]:
    """Of one image that is to be converted."""
    with fresh_work(tmp_path_factory.mktemp("pictures")) as work:
        image = _push(work, "drawn/image:1")
        work.wish("{host}/drawn/image:1")
        work.configure(platforms=[str(AMD64)])
        yield {option: work.run(option) for option in OPTIONS}, image, work


@pytest.mark.parametrize("option", OPTIONS[:3])
def test_a_picture_is_all_that_is_on_standard_output(
    pictures: tuple[dict[str, Run], Image, Work], option: str
):
    run = pictures[0][option]
    assert run.status == 0, run.said
    assert run.stdout.startswith("digraph ")
    assert run.stdout.rstrip().endswith("}")


@pytest.mark.parametrize("option", OPTIONS[:3])
def test_graphviz_reads_the_picture(pictures: tuple[dict[str, Run], Image, Work], option: str):
    dot = need("dot")
    drawn = subprocess.run(
        [dot, "-Tplain"], input=pictures[0][option].stdout, capture_output=True, text=True
    )
    assert drawn.returncode == 0, drawn.stderr
    nodes = [line for line in drawn.stdout.splitlines() if line.startswith("node ")]
    assert len(nodes) >= 5


def test_the_graph_of_jobs_names_the_image_and_short_digests(
    pictures: tuple[dict[str, Run], Image, Work],
):
    runs, image, work = pictures
    labels = re.findall(r'label = "([^"]*)"', runs["--dag"].stdout)
    publish = next(label for label in labels if label.startswith("publish_image"))
    assert work.named("drawn/image:1") in publish
    assert image.digest.short in publish and image.digest.hex not in publish
    for layer in image.layers:
        assert any(layer.digest.short in label for label in labels)


def test_the_graph_of_rules_shows_the_path_of_an_image(
    pictures: tuple[dict[str, Run], Image, Work],
):
    labels = re.findall(r'label = "([^"]*)"', pictures[0]["--rulegraph"].stdout)
    assert set(labels) == {"all", "fetch_blob", "unpack_layer", "flatten_image", "publish_image"}


def test_the_lint_has_nothing_to_say_and_asks_no_registry(
    pictures: tuple[dict[str, Run], Image, Work],
):
    run = pictures[0]["--lint"]
    assert run.status == 0
    assert "Congratulations" in run.said
    assert "images" not in run.stderr
    assert run.requests == ()


def test_pictures_change_nothing(pictures: tuple[dict[str, Run], Image, Work]):
    work = pictures[2]
    assert not work.repository.path.exists()
    remembered = {path.name for path in (work.path / "results").iterdir()}
    assert remembered <= {"polls.json", "manifests", "plans", "parts", "runs", "run.lock"}
