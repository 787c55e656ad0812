"""Whole runs of the workflow: cold conversions, and runs that have nothing to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import layers
import pytest
import yaml
from compare import Program, Run, alternate, run, told
from isal import igzip

from duccmake.demo.images import Image
from duccmake.repository.directory.backend import DirectoryRepository
from support.images import Layer, LayerBuilder, push
from support.pipeline import change_set, stage
from support.servers import DockerRegistry, docker_registry, need, skopeo

CHECKOUT = Path(__file__).parents[2]
REPOSITORY = "images.example.org"
UNCHANGED = 500


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = "localhost"
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def test_cold_conversion_against_skopeo_and_umoci(registry: DockerRegistry, tmp_path: Path) -> None:
    """Three images over one Debian root; both sides may use two cores."""
    umoci = need("umoci") + (" unpack" if os.geteuid() == 0 else " unpack --rootless")
    data = layers.data_directory(tmp_path / "data")
    base = layers.debian_root(data)
    tags = ["one", "two", "three"]
    for tag in tags:
        own = layers.small_files(data, 10_000, top=tag)
        image = layers.oci_image(tmp_path / "layout", [base, own], tag)
        skopeo("copy", "--quiet", "--dest-tls-verify=false", f"oci:{image}",
               f"docker://{registry.host}/team/debian:{tag}")  # fmt: skip
    shutil.rmtree(tmp_path / "layout")
    configured = configure(tmp_path, [f"{registry.host}/team/debian:{tag}" for tag in tags])
    copy = f"skopeo copy --quiet --src-tls-verify=false docker://{registry.host}/team/debian"
    script = (
        f"set -e; for tag in {' '.join(tags)}; do {copy}:$tag oci:$0/layout:$tag; done; "
        f"echo {' '.join(tags)} | xargs -n 1 -P 2 sh -c '{umoci} --image $0/layout:$1 $0/$1' $0"
    )
    alternate(
        "Three images over a Debian root, cold",
        [
            Program("duccmake", workflow("{out}", "--configfile", configured)),
            Program("skopeo copy, umoci unpack", ["sh", "-c", script, "{out}"]),
        ],
        rounds=3,
    )


FOLLOW = """
set -e
for tag in {tags}; do
    {copy}:$tag oci:$0/layout:$tag
    now=$(skopeo inspect --raw oci:$0/layout:$tag | sha256sum)
    test "$now" = "$(cat $0/$tag.done 2>/dev/null)" && continue
    rm -rf $0/$tag
    {umoci} --image $0/layout:$tag $0/$tag
    echo "$now" > $0/$tag.done
done
"""
"""What brings directories in step with tags, and unpacks only what changed."""


def test_changed_and_unchanged_images_against_skopeo_and_umoci(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    """Three images of 10,000 files; one has another tiny top layer, then none has."""
    umoci = need("umoci") + (" unpack" if os.geteuid() == 0 else " unpack --rootless")
    need("skopeo")
    base = Layer(igzip.decompress(layers.small_files(tmp_path, 10_000).blob.read_bytes()))
    tags = ["one", "two", "three"]

    def push_with(tag: str, text: str) -> None:
        top = LayerBuilder().file("round", text).layer()
        push(Image((base, top)), registry.host, "team/follow", tag)

    for tag in tags:
        push_with(tag, tag)
    names = [f"{registry.host}/team/follow:{tag}" for tag in tags]
    configured = configure(tmp_path, names)
    copy = f"skopeo copy --quiet --src-tls-verify=false docker://{registry.host}/team/follow"
    script = FOLLOW.format(tags=" ".join(tags), copy=copy, umoci=umoci)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    programs = [
        Program("duccmake", workflow(tmp_path / "ours", "--configfile", configured)),
        Program("skopeo copy, umoci unpack", ["sh", "-c", script, tmp_path / "theirs"]),
    ]
    for program in programs:
        run(program)
    changed: dict[str, list[Run]] = {program.name: [] for program in programs}
    for number in range(3):
        push_with("one", str(number))
        for program in programs:
            changed[program.name].append(run(program))
    told("One of three images with another tiny layer", changed)
    alternate("Three images unchanged", programs, rounds=3)


def test_nothing_to_do_against_bare_snakemake(registry: DockerRegistry, tmp_path: Path) -> None:
    """500 images that did not change: what is there besides Snakemake itself and the polls."""
    publish_directly(registry.host, tmp_path)
    names = [f"{registry.host}/team/app{number}:1" for number in range(UNCHANGED)]
    configured = configure(tmp_path, names)
    command = workflow(tmp_path, "--configfile", configured)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"0 pending, {UNCHANGED} up to date" in done.stderr, done.stderr
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "Snakefile").write_text("rule all:\n    input: 'Snakefile'\n")
    bare = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", tmp_path / "bare"]
    accept = "Accept: application/vnd.oci.image.manifest.v1+json"
    url = f"http://{registry.host}/v2/team/app[0-{UNCHANGED - 1}]/manifests/1"
    heads = [need("curl"), "-sfIZ", "--parallel-max", "8", "-H", accept, "-o", "/dev/null", url]
    alternate(
        f"{UNCHANGED} images unchanged",
        [
            Program("duccmake", command),
            Program("Snakemake", [*bare, "--snakefile", tmp_path / "bare" / "Snakefile"]),
            Program("curl, as many HEADs", heads),
        ],
    )


def configure(base: Path, images: list[str]) -> Path:
    """A wish list and a configuration for it."""
    recipe = base / "recipe.yaml"
    members = {"version": 1, "user": "benchmark", "cvmfs_repo": REPOSITORY}
    recipe.write_text(yaml.safe_dump({**members, "input": [f"http://{name}" for name in images]}))
    config = base / "config.yaml"
    config.write_text(yaml.safe_dump({"recipe": str(recipe), "products": ["layers", "flat"]}))
    return config


def workflow(directory: Path | str, *options: str | Path) -> list[str | Path]:
    """The command that brings the repository in step."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", CHECKOUT / "Snakefile"]
    return [*command, "--directory", directory, "--cores", "2", *options]


def publish_directly(host: str, base: Path) -> None:
    """Push 500 small images of two layers and publish them, all in one commit."""
    shared = LayerBuilder().dir("etc").file("etc/os-release", "ID=benchmark\n").layer()
    images = []
    for number in range(UNCHANGED):
        own = LayerBuilder().dir("opt").file("opt/number", str(number)).layer()
        image = Image((shared, own))
        push(image, host, f"team/app{number}", "1")
        images.append(stage(f"{host}/team/app{number}:1", image, base / "staging"))
    repository = DirectoryRepository(base / "cvmfs", REPOSITORY, durable=False)
    with repository.lock():
        repository.publish(change_set(images, base / "staging"))
