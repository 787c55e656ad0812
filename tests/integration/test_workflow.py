"""The life of a repository: converted, left alone, moved, bereft of its registry, mended.

The stages build on one another and each costs real runs of Snakemake, so they are
shared: a stage keeps what its run printed and asked, and a copy of the repository.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.demo.samples import moved_hello, sample_images
from support import images
from support.on_disk import OnDisk
from support.pipeline import digest_of
from support.runs import REPOSITORY, Run, Stage, Work, sample_work, stage
from support.trees import snapshot

NAMES = ("demo/hello:1.0", "demo/hello:latest", "demo/tools:2024")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    with sample_work(tmp_path_factory.mktemp("life")) as work:
        yield work


@pytest.fixture(scope="module")
def preview(work: Work) -> Run:
    """A dry run before anything else."""
    run = work.run("--dry-run", "-p", check=True)
    assert not (work.path / "cvmfs").exists()
    return run


@pytest.fixture(scope="module")
def first(work: Work, preview: Run) -> Stage:
    return stage(work, "first", check=True)


@pytest.fixture(scope="module")
def second(work: Work, first: Stage) -> Stage:
    return stage(work, "second", check=True)


@pytest.fixture(scope="module")
def moved_preview(work: Work, second: Stage) -> tuple[Run, list[str]]:
    """A dry run after a tag moved, and what it changed in the repository and in ``results/``."""
    images.move_tag(work.host)
    before = _files(work)
    run = work.run("--dry-run", "-p")
    after = _files(work)
    return run, sorted(path for path in before | after if before.get(path) != after.get(path))


@pytest.fixture(scope="module")
def moved(work: Work, moved_preview: tuple[Run, list[str]]) -> Stage:
    return stage(work, "moved", check=True)


@pytest.fixture(scope="module")
def deserted(work: Work, moved: Stage) -> Stage:
    """Nobody answers at the registry's address for the time of this run."""
    with work.deserted():
        return stage(work, "deserted", check=True)


@pytest.fixture(scope="module")
def mended(work: Work, deserted: Stage) -> Stage:
    """Somebody removed a flat tree, and the link of another image; the last tag moved too."""
    layout = OnDisk(work.repository.path)
    shutil.rmtree(layout.link(work.named("demo/tools:2024")).resolve())
    layout.link(work.named("demo/hello:latest")).unlink()
    work.push("demo/hello:1.0", moved_hello())
    return stage(work, "mended", check=True)


@pytest.fixture(scope="module")
def forgetful(work: Work, mended: Stage) -> Stage:
    """All that the workflow remembers is lost."""
    shutil.rmtree(work.path / "results")
    shutil.rmtree(work.path / ".snakemake")
    return stage(work, "forgetful", check=True)


def _files(work: Work) -> dict[str, tuple[int, int]]:
    """Inode and change time of everything in the repository and in ``results/``."""
    found = {}
    for top in ("cvmfs", "results"):
        for directory, below, names in os.walk(work.path / top):
            for name in [*below, *names]:
                path = Path(directory, name)
                status = path.lstat()
                found[str(path.relative_to(work.path))] = (status.st_ino, status.st_ctime_ns)
    return found


def _layers(*samples: Image) -> list[str]:
    return sorted({str(layer.digest) for image in samples for layer in image.layers})


# --- a dry run ----------------------------------------------------------


def test_a_dry_run_lists_exactly_the_pending_conversions_with_reasons(preview: Run, work: Work):
    samples = sample_images()
    layers = _layers(*samples.values())
    configs = {digest_of(image.config_bytes).short for image in samples.values()}
    wished = [
        f"Publish {work.named(name)} ({image.digest.short}) in {REPOSITORY}: new"
        for name, image in samples.items()
    ]
    for verb in ("Fetch", "Unpack"):
        wished += [f"{verb} layer {digest.partition(':')[2][:12]}" for digest in layers]
    wished += [f"Flatten the image with configuration {config}" for config in configs]
    assert sorted(preview.jobs) == sorted(wished)


def test_a_dry_run_fetches_no_layer(preview: Run):
    layers = _layers(*sample_images().values())
    assert not set(preview.blobs()) & set(layers)


def test_a_dry_run_after_a_moved_tag_lists_that_image_alone(
    moved_preview: tuple[Run, list[str]], work: Work
):
    run, _ = moved_preview
    assert run.status == 0
    old, new = sample_images()["demo/hello:latest"], moved_hello()
    published = [job for job in run.jobs if job.startswith("Publish")]
    assert published == [
        f"Publish {work.named('demo/hello:latest')} ({new.digest.short}) in {REPOSITORY}: "
        f"moved: {old.digest.short} is published, {new.digest.short} is wished for"
    ]
    assert [job for job in run.jobs if job.startswith("Fetch")] == [
        f"Fetch layer {new.layers[-1].digest.short}"
    ]


def test_a_dry_run_changes_only_what_is_remembered_of_registries(
    moved_preview: tuple[Run, list[str]],
):
    _, changed = moved_preview
    known = tuple(f"results/{name}" for name in ("polls.json", "manifests", "plans", "parts"))
    assert changed
    assert [path for path in changed if not path.startswith(known)] == []


def test_a_dry_run_fetches_the_manifest_of_the_moved_tag_alone(
    moved_preview: tuple[Run, list[str]],
):
    run, _ = moved_preview
    new = moved_hello()
    assert run.blobs() == [str(digest_of(new.config_bytes))]
    [got] = run.asked("^GET .*/manifests/")
    assert "/demo/hello/manifests/" in got
    assert len(run.asked("^HEAD .*/manifests/")) == 3


# --- the first conversion -----------------------------------------------


def test_every_image_is_published_under_its_name(first: Stage, work: Work):
    for name, image in sample_images().items():
        link = first.layout.link(work.named(name))
        config = digest_of(image.config_bytes)
        assert str(link.readlink()) == f"../../.flat/{config.prefix}/{config.hex}"
        assert link.resolve() == first.layout.flat(config)


def test_two_tags_of_one_image_share_one_flat_tree(first: Stage, work: Work):
    one, other = (first.layout.link(work.named(name)) for name in NAMES[:2])
    assert one.resolve() == other.resolve()
    assert len(list((first.repository / ".flat").glob("*/*"))) == 2


def test_manifests_are_the_registry_s_bytes(first: Stage, work: Work):
    for name, image in sample_images().items():
        assert first.layout.manifest(work.named(name)).read_bytes() == image.manifest_bytes


def test_each_layer_is_published_once_with_its_metadata(first: Stage):
    samples = sample_images()
    found = sorted(path.name for path in (first.repository / ".layers").glob("*/*"))
    assert found == [digest.partition(":")[2] for digest in _layers(*samples.values())]
    base = samples["demo/tools:2024"].layers[0].digest
    assert (first.layout.layerfs(base) / "etc/os-release").is_file()
    metadata = first.layout.layer(base) / ".metadata"
    assert {"layers.json", "origin.json", "tree.mtree"} <= {p.name for p in metadata.iterdir()}
    configs = {str(digest_of(image.config_bytes)) for image in samples.values()}
    assert set(json.loads(first.layout.origin(base).read_bytes())["origin"]) == configs


def test_records_say_what_was_published(first: Stage, work: Work):
    for name, image in sample_images().items():
        record = json.loads(first.layout.record(work.named(name)).read_bytes())
        assert record["manifest"] == str(image.digest)
        assert record["layers"] == [str(layer.digest) for layer in image.layers]


def test_published_trees_are_what_their_manifests_say(first: Stage, work: Work):
    # The last stage has seen all that happens to a repository.
    for name in NAMES:
        assert work.repository.verify(work.named(name)) == []


def test_the_flat_tree_is_the_image(first: Stage, work: Work):
    tree = first.layout.link(work.named("demo/hello:1.0")).resolve()
    hello = tree / "usr/share/hello"
    assert (hello / "greeting").read_text() == "Hello from 1.0\n"
    assert not (hello / "draft").exists()
    assert (hello / "licence").stat().st_ino == (hello / "license").stat().st_ino
    assert (tree / "usr/local/bin/hi").readlink() == Path("hello")
    assert sorted(path.name for path in (tree / "var/cache/hello").iterdir()) == ["new"]
    assert not list(tree.rglob(".wh.*"))
    assert (tree / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_the_flat_tree_is_ready_for_singularity(first: Stage, work: Work):
    tree = first.layout.link(work.named("demo/hello:1.0")).resolve()
    inner = tree / ".singularity.d"
    assert {path.name for path in (inner / "actions").iterdir()} == {
        "exec", "run", "shell", "start", "test",
    }  # fmt: skip
    environment = (inner / "env" / "10-docker2singularity.sh").read_text()
    assert "HELLO_NAME" in environment and "world" in environment
    labels = json.loads((inner / "labels.json").read_bytes())
    assert labels["org.opencontainers.image.version"] == "1.0"
    assert os.access(inner / "runscript", os.X_OK)
    for link in ("singularity", "environment", ".exec", ".run", ".shell", ".test"):
        assert str((tree / link).readlink()).startswith(".singularity.d/")
    assert (tree / "cvmfs").is_dir() and (tree / "srv").is_dir()


def test_a_program_runs_from_the_flat_tree(first: Stage, work: Work):
    tree = first.layout.link(work.named("demo/hello:1.0")).resolve()
    if not (tree / "bin/sh").exists():
        pytest.skip("this machine has no programs that an image could take along")
    assert _run_in(tree, "/.singularity.d/runscript") == "Hello from 1.0, you!\n"


def _run_in(tree: Path, program: str) -> str:
    ways = [["bwrap", "--ro-bind", str(tree), "/", "--dev", "/dev", program]]
    if os.geteuid() == 0:
        ways.append(["chroot", str(tree), program])
    else:
        ways.append(["unshare", "--map-root-user", "chroot", str(tree), program])
    refused = []
    for way in ways:
        path = shutil.which(way[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if path is None:
            refused.append(f"{way[0]} is missing")
            continue
        # Whether the machine allows it at all is not the image's business.
        allowed = subprocess.run([path, *way[1:-1], "/bin/sh", "-c", ":"], capture_output=True)
        if allowed.returncode:
            refused.append(f"{way[0]}: {allowed.stderr.decode(errors='replace').strip()}")
            continue
        done = subprocess.run([path, *way[1:]], capture_output=True, text=True, check=True)
        return done.stdout
    pytest.skip("; ".join(refused))


def test_layers_that_images_share_are_fetched_once(first: Stage):
    assert first.run.blobs() == _layers(*sample_images().values())


def test_the_summary_has_a_line_for_each_image(first: Stage, work: Work):
    assert set(first.run.outcomes) == {work.named(name) for name in NAMES}
    assert {outcome for outcome, _ in first.run.outcomes.values()} == {"converted"}
    assert first.run.counts == (3, 0, 0, 0)
    assert first.run.transferred[1] == "0 B"


def test_nothing_staged_is_left_behind(first: Stage, forgetful: Stage, work: Work):
    assert not list((work.path / "results").glob("blobs/*"))
    assert not list((work.path / "results").glob("*/layers/*"))
    assert not list((work.path / "results").glob("*/flat/*"))
    assert sorted(p.name for p in (forgetful.repository / ".duccmake").iterdir()) == [
        "images.sqlite",
        "lock",
    ]


# --- once more ----------------------------------------------------------


def test_a_second_run_has_nothing_to_do(second: Stage, first: Stage):
    assert second.run.jobs == []
    assert second.run.counts == (0, 3, 0, 0)
    assert snapshot(second.repository) == snapshot(first.repository)


def test_a_second_run_asks_for_tags_and_by_head_only(second: Stage):
    assert len(second.run.asked("^HEAD .*/manifests/")) == 3
    assert [line for line in second.run.asked("^GET") if "/tags/list" not in line] == []


# --- a moved tag --------------------------------------------------------


def test_a_moved_tag_rebuilds_that_image_only(moved: Stage, work: Work):
    assert {name: outcome for name, (outcome, _) in moved.run.outcomes.items()} == {
        work.named("demo/hello:1.0"): "up to date",
        work.named("demo/hello:latest"): "converted",
        work.named("demo/tools:2024"): "up to date",
    }
    assert len([job for job in moved.run.jobs if job.startswith("Publish")]) == 1


def test_a_moved_tag_fetches_its_new_layers_only(moved: Stage):
    assert moved.run.blobs() == [str(moved_hello().layers[-1].digest)]
    assert moved.run.transferred[1] != "0 B"


def test_a_moved_tag_s_link_shows_the_new_tree_and_the_old_one_stays(moved: Stage, work: Work):
    layout = moved.layout
    old = digest_of(sample_images()["demo/hello:latest"].config_bytes)
    new = digest_of(moved_hello().config_bytes)
    assert layout.link(work.named("demo/hello:latest")).resolve() == layout.flat(new)
    assert layout.link(work.named("demo/hello:1.0")).resolve() == layout.flat(old)
    greeting = layout.flat(new) / "usr/share/hello/greeting"
    assert greeting.read_text() == "Hello from 1.1\n"


def test_a_superseded_manifest_is_scheduled_for_removal_once_no_tag_has_it(
    moved: Stage, mended: Stage, work: Work
):
    old = digest_of(sample_images()["demo/hello:1.0"].config_bytes)
    assert _scheduled(moved) == []
    assert _scheduled(mended) == [str(old)]
    assert (mended.layout.flat(old) / "usr/share/hello/greeting").is_file()


def _scheduled(stage: Stage) -> list[str]:
    schedule = stage.layout.remove_schedule
    listed = json.loads(schedule.read_bytes()) if schedule.exists() else []
    return [manifest["config"]["digest"] for manifest in listed]


# --- a registry that is down, and losses --------------------------------


def test_what_is_published_stays_in_force_while_the_registry_is_down(
    deserted: Stage, moved: Stage, work: Work
):
    assert "what is published stays in force" in deserted.run.stderr
    assert {outcome for outcome, _ in deserted.run.outcomes.values()} == {"up to date"}
    assert set(deserted.run.outcomes) == {work.named(name) for name in NAMES}
    assert snapshot(deserted.repository) == snapshot(moved.repository)


def test_a_lost_flat_tree_and_a_lost_link_are_restored_from_the_layers(
    mended: Stage, moved: Stage, work: Work
):
    assert mended.run.counts == (3, 0, 0, 0)
    assert [job for job in mended.run.jobs if job.startswith(("Fetch", "Unpack"))] == []
    for name in NAMES[1:]:
        tree, before = (stage.layout.link(work.named(name)).resolve() for stage in (mended, moved))
        assert snapshot(tree) == snapshot(before)


def test_losing_all_that_is_remembered_reconverts_nothing(forgetful: Stage, mended: Stage):
    assert forgetful.run.jobs == []
    assert forgetful.run.counts == (0, 3, 0, 0)
    layers = _layers(*sample_images().values(), moved_hello())
    assert not set(forgetful.run.blobs()) & set(layers)
    assert snapshot(forgetful.repository) == snapshot(mended.repository)
