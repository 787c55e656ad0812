"""Images into CernVM-FS, against DUCC and against one bare ingest of the same bytes.

Three images that share layers, about 300 MB of this machine's own software:
converted cold, with one tiny top layer changed, and left alone.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import statistics
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from compare import beside

from duccmake.demo.images import Image
from duccmake.jobs.publish_image import learn
from duccmake.layer.known_objects import Known
from duccmake.repository.cvmfs.staging import Staging
from duccmake.repository.model import StagedImage
from duccmake.repository.settings import RepositorySettings
from support.cvmfs_repositories import Real, real_repositories, why_not_real
from support.images import Layer, LayerBuilder, push
from support.pipeline import change_set, stage
from support.runs import Work
from support.servers import DockerRegistry, docker_registry

pytestmark = pytest.mark.cvmfs

ROUNDS = int(os.environ.get("DUCCMAKE_BENCHMARK_ROUNDS", "3"))
SIZES = {"base": 130, "shared": 80, "one": 40, "two": 30, "three": 20}
"""Megabytes of each layer."""
IMAGES = {
    "one": ("base", "shared", "one"),
    "two": ("base", "shared", "two"),
    "three": ("base", "three"),
}
LARGEST_FILE = 8_000_000
PLACES = ("/usr/lib/python3", "/usr/share", "/usr/lib/x86_64-linux-gnu", "/usr/bin", "/usr/lib")
_fresh = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def real() -> None:
    if reason := why_not_real():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def layers() -> dict[str, Layer]:
    """Layers of files that this machine has, each file in one of them."""
    files = _files_of_this_machine()
    return {name: _layer(name, files, size * 1_000_000) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def registry(
    layers: dict[str, Layer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerRegistry]:
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = "localhost,127.0.0.1"
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        for name in IMAGES:
            push(_image(layers, name), registry.host, f"team/{name}", "1")
        yield registry


def _files_of_this_machine() -> Iterator[Path]:
    seen = set()
    for place in PLACES:
        for directory, below, names in os.walk(place):
            below.sort()
            for path in (Path(directory, name) for name in sorted(names)):
                if path in seen or path.is_symlink() or not path.is_file():
                    continue
                seen.add(path)
                if path.stat().st_size < LARGEST_FILE:
                    yield path


def _layer(name: str, files: Iterator[Path], size: int) -> Layer:
    raw, taken = io.BytesIO(), 0
    directories: set[Path] = set()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in files:
            for parent in list(reversed(path.parents))[1:]:
                if parent not in directories:
                    directories.add(parent)
                    archive.add(parent, f"opt/{name}{parent}", recursive=False)
            archive.add(path, f"opt/{name}{path}", recursive=False)
            taken += path.stat().st_size
            if taken > size:
                break
    return Layer(raw.getvalue())


def _image(layers: dict[str, Layer], name: str, *more: Layer) -> Image:
    return Image((*(layers[layer] for layer in IMAGES[name]), *more), media="docker")


def _with_one_more(layer: Layer) -> Layer:
    raw = io.BytesIO(layer.tar)
    with tarfile.open(fileobj=raw, mode="a", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("opt/built"), io.BytesIO())
    return Layer(raw.getvalue())


def _repository() -> Real:
    """A repository that nothing was ever stored in."""
    return real_repositories().get(f"# {next(_fresh)}")


def _timed(work: Callable[[], object]) -> float:
    os.sync()  # a commit waits for all that is to be written, also by what ran before
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _bare_ingest(tar: Path) -> float:
    repository = _repository()
    arguments = ["ingest", "-k", "-b", "bare", "-t", str(tar), repository.name]
    return _timed(lambda: repository.server(*arguments))


def _distinct_bytes(layers: dict[str, Layer], tmp_path: Path) -> Path:
    """All layers' content in one archive."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for layer in layers.values():
        subprocess.run(["tar", "-xf", "-", "-C", str(tree)], input=layer.tar, check=True)
    tar = tmp_path / "distinct.tar"
    subprocess.run(["tar", "--format=gnu", "-cf", str(tar), "-C", str(tree), "opt"], check=True)
    shutil.rmtree(tree)
    return tar


def _told(title: str, ours: list[float], peers: dict[str, list[float]]) -> None:
    peers = {name: taken for name, taken in peers.items() if taken}
    print(f"\n{title} (medians of {len(ours)} runs in turn)")
    for name, taken in {"duccmake": ours, **peers}.items():
        print(f"  {name:32}{statistics.median(taken):8.2f} s")
    for name, taken in peers.items():
        beside(title, ours, name, taken)
        ratios = [mine / other for mine, other in zip(ours, taken, strict=False)]
        print(f"  {'duccmake / ' + name:32}{statistics.median(ratios):8.2f}")


def test_the_publishing_step_against_a_bare_ingest(
    layers: dict[str, Layer], tmp_path: Path
) -> None:
    """Everything is staged: layers and flat trees of three images, in one commit."""
    tar = _distinct_bytes(layers, tmp_path)
    staging = tmp_path / "staging"
    staged = [
        stage(f"localhost/team/{name}:1", _image(layers, name), staging, catalogs=True)
        for name in IMAGES
    ]
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(_bare_ingest(tar))
        repository = _repository().open()

        def publish(repository=repository) -> None:
            with repository.lock():
                repository.publish(change_set(staged, staging))

        ours.append(_timed(publish))
    _told("Publishing three images that are staged", ours, {"bare ingest": bare})


def test_an_image_that_is_built_anew_against_a_bare_ingest(
    layers: dict[str, Layer], tmp_path: Path
) -> None:
    """One file was added to each of its layers, which so have other digests."""
    staging, name = tmp_path / "staging", "localhost/team/one:1"
    before = stage(name, _image(layers, "one"), staging, catalogs=True)
    anew = {each: _with_one_more(layers[each]) for each in IMAGES["one"]}
    tar = _distinct_bytes({each: layers[each] for each in IMAGES["one"]}, tmp_path)
    ours, published, entered, unknown, bare = [], [], [], [], []
    for turn in range(ROUNDS):
        bare.append(_bare_ingest(tar))
        real = _repository()
        repository, index = real.open(), tmp_path / f"known-{turn}.sqlite"
        with repository.lock():
            repository.publish(change_set([before], staging))
        settings = RepositorySettings("cvmfs")
        entered.append(_timed(lambda s=settings, r=real, i=index: learn(s, r.name, i)))
        known = Staging(settings, real.name).layer(before.layers[0], index).known
        place = tmp_path / f"anew-{turn}"

        def staged(place: Path, known: Known | None) -> StagedImage:
            return stage(name, _image(anew, "one"), place, catalogs=True, known=known)

        unknown.append(_timed(lambda p=place: staged(p / "unknown", None)))
        after: list[StagedImage] = []
        taken = _timed(lambda p=place, k=known, a=after: a.append(staged(p / "known", k)))

        def publish(repository=repository, after=after, place=place) -> None:
            with repository.lock():
                repository.publish(change_set(after, place / "known"))

        published.append(_timed(publish))
        ours.append(taken + published[-1])
        shutil.rmtree(place)
    peers = {"bare ingest": bare, "publishing alone": published}
    peers |= {"staging without the index": unknown, "filling the index": entered}
    _told("Staging, layer by layer, and publishing an image built anew", ours, peers)


def test_whole_runs_against_ducc_and_a_bare_ingest(
    layers: dict[str, Layer], registry: DockerRegistry, tmp_path: Path
) -> None:
    tar = _distinct_bytes(layers, tmp_path)
    cold, bare, changed, nothing = [], [], [], []
    ducc: dict[str, list[float]] = {}
    for turn in range(ROUNDS):
        for name in IMAGES:
            push(_image(layers, name), registry.host, f"team/{name}", "1")
        bare.append(_bare_ingest(tar))
        repository = _repository()
        work = Work(tmp_path / f"work-{turn}")
        images = [f"http://{registry.host}/team/{name}:1" for name in IMAGES]
        work.wish(*images, cvmfs_repo=repository.name)
        work.configure(repository={"backend": "cvmfs"})
        cold.append(_timed(lambda work=work: work.run(check=True)))
        tiny = LayerBuilder().dir("etc").file("etc/turn", str(turn)).layer()
        push(_image(layers, "one", tiny), registry.host, "team/one", "1")
        before = repository.revision()
        changed.append(_timed(lambda work=work: work.run(check=True)))
        assert repository.revision() == before + 1
        nothing.append(_timed(lambda work=work: work.run(check=True)))
        assert repository.revision() == before + 1
        if turn == 0:
            push(_image(layers, "one"), registry.host, "team/one", "1")

            def change() -> None:
                push(_image(layers, "one", tiny), registry.host, "team/one", "1")  # noqa: B023

            ducc = _ducc(images, tmp_path, change)
    name = "cvmfs_ducc convert -i -p"
    _told("Three images, cold", cold, {"bare ingest": bare, name: ducc.get("cold", [])})
    peers = {"nothing changed": nothing, name: ducc.get("changed", [])}
    _told("One tiny top layer changed", changed, peers)
    _told("Nothing changed", nothing, {name: ducc.get("nothing", [])})


def _ducc(images: list[str], tmp_path: Path, change: Callable[[], None]) -> dict[str, list[float]]:
    """DUCC's cold run, one after a change and one after that; empty where it is not installed."""
    if shutil.which("cvmfs_ducc") is None:
        return {}
    repository = _repository()
    recipe = tmp_path / "ducc.yaml"
    members = {"version": 1, "user": "tests", "cvmfs_repo": repository.name, "input": images}
    members["output_format"] = "$(scheme)://$(registry)/thin/$(repository):$(tag)"
    recipe.write_text(yaml.safe_dump(members))
    command = ["cvmfs_ducc", "convert", "-i", "-p", str(recipe)]

    def convert() -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=900)

    cold = _timed(convert)
    change()
    return {"cold": [cold], "changed": [_timed(convert)], "nothing": [_timed(convert)]}
