"""Images on several platforms: lists, indexes, indexes in indexes; one platform, several, back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.oci.manifest import (
    DOCKER_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    parse_manifest,
)
from duccmake.oci.reference import Platform, Reference
from duccmake.registry.client import Client
from duccmake.registry.images import select_image
from duccmake.registry.settings import RegistrySettings
from support import runs
from support.pipeline import digest_of
from support.registry import FullRegistry
from support.runs import Run, Stage, Work, fresh_work
from support.servers import SampleImage, add_image, add_index, docker_registry, layer_of, skopeo

AMD64, ARM64, ARM_V7, ARM_V6, S390X = (
    Platform.parse(text)
    for text in ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/s390x")
)
PLATFORMS = (AMD64, Platform.parse("linux/arm64/v8"), ARM_V6, ARM_V7, S390X)


def add_list(registry: FullRegistry, name: str, media_type: str, *platforms: Platform) -> None:
    """An image for each platform, with an attestation each, below a list or an index."""
    entries: list[Descriptor] = []
    for platform in platforms or PLATFORMS:
        layer = layer_of({"machine": str(platform).encode()})[0]
        image = add_image(
            registry.store,
            name,
            layers=(layer,),
            platform=platform,
            docker=media_type == DOCKER_LIST,
        )
        entries += [image.manifest, attestation(registry, name, image)]
    add_index(registry.store, name, "1", entries, media_type)


def attestation(registry: FullRegistry, name: str, image: SampleImage) -> Descriptor:
    """What `docker buildx` adds for each platform: an image for no platform."""
    of = add_image(
        registry.store,
        name,
        layers=(layer_of({"attestation": str(image.manifest.digest).encode()})[0],),
        platform=Platform("unknown", "unknown"),
    )
    return Descriptor(
        OCI_MANIFEST,
        of.manifest.digest,
        of.manifest.size,
        platform=Platform("unknown", "unknown"),
    )


def add_nested(registry: FullRegistry, name: str) -> None:
    """An index of indexes, one of them for each half of the platforms."""
    inner = []
    for half in (PLATFORMS[:2], PLATFORMS[2:]):
        add_list(registry, name, OCI_INDEX, *half)
        found = registry.store.manifest(name, "1")
        assert found
        inner.append(Descriptor(OCI_INDEX, found[0], len(found[2])))
    add_index(registry.store, name, "1", inner)


LISTS = {"docker": DOCKER_LIST, "oci": OCI_INDEX}
SEVERAL = ["linux/amd64", "linux/arm64", "linux/arm/v7"]
LABELS = {"amd64": "linux/amd64", "arm64": "linux/arm64/v8", "arm-v7": "linux/arm/v7"}
TAGGED = {
    "platforms": "linux/amd64",
    "products": ["layers"],
    "tags": {"include": ["1.*"], "exclude": ["*-rc*"], "keep_last": 2},
}
NAMES = ("m/docker:1", "m/oci:1", "m/nested:1")


def machine(stage: Stage, path: str) -> str:
    """For which machine the image is that a path leads to."""
    return (stage.repository / path / "machine").read_text()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    with fresh_work(tmp_path_factory.mktemp("platforms")) as work:
        registry = work.registry
        assert registry
        for name, media_type in LISTS.items():
            add_list(registry, f"m/{name}", media_type)
        add_nested(registry, "m/nested")
        add_list(registry, "m/only", OCI_INDEX, AMD64)
        for tag in ("latest", "1.8", "1.9", "1.10", "1.11-rc1", "2.0"):
            add_image(registry.store, "m/tagged", tag)
        host = f"http://{registry.host}"
        entries = [f"{host}/{name}" for name in NAMES]
        entries += [{"image": f"{host}/m/only:1"}, {"image": f"{host}/m/tagged", **TAGGED}]
        work.wish(version=2, input=entries, ignoreErrors=["*/m/only:1"])
        yield work


def stage(work: Work, name: str, *platforms: str) -> Stage:
    work.configure(platforms=list(platforms))
    return runs.stage(work, name, check=True)


@pytest.fixture(scope="module")
def one(work: Work) -> Stage:
    return stage(work, "one", "linux/amd64")


@pytest.fixture(scope="module")
def several(work: Work, one: Stage) -> Stage:
    return stage(work, "several", *SEVERAL)


@pytest.fixture(scope="module")
def again(work: Work, several: Stage) -> Stage:
    return stage(work, "again", *SEVERAL)


@pytest.fixture(scope="module")
def reordered(work: Work, again: Stage) -> Stage:
    return stage(work, "reordered", *reversed(SEVERAL))


@pytest.fixture(scope="module")
def back(work: Work, reordered: Stage) -> Stage:
    return stage(work, "back", "linux/amd64")


def kinds(run: Run) -> set[str]:
    """The first words of the jobs' messages."""
    return {job.split()[0] for job in run.jobs}


def test_of_one_platform_the_public_link_is_the_image(one: Stage, work: Work):
    for name in NAMES:
        assert machine(one, work.named(name)) == "linux/amd64"
        assert not one.layout.multiarch.exists()
        assert "/.flat/" in str(one.layout.link(work.named(name)).readlink())


def test_of_several_platforms_those_that_are_wished_for_appear_and_no_other(
    several: Stage, work: Work
):
    assert sorted(path.name for path in several.layout.multiarch.iterdir()) == sorted(LABELS)
    for name in NAMES:
        for label, platform in LABELS.items():
            assert machine(several, f".multiarch/{label}/{work.named(name)}") == platform
    found = [path.read_text() for path in several.repository.glob(".layers/*/*/layerfs/machine")]
    assert set(found) == set(LABELS.values())
    assert not list(several.repository.glob(".layers/*/*/layerfs/attestation"))


def test_the_public_link_of_several_leads_to_the_first_that_is_wished_for(
    several: Stage, reordered: Stage, work: Work
):
    for name in NAMES:
        assert machine(several, work.named(name)) == "linux/amd64"
        assert machine(reordered, work.named(name)) == "linux/arm/v7"


def test_a_platform_that_an_image_is_not_there_for_is_reported_alone(
    several: Stage, again: Stage, work: Work
):
    name = work.named("m/only:1")
    assert machine(several, name) == machine(several, f".multiarch/amd64/{name}") == "linux/amd64"
    for platform in SEVERAL[1:]:
        outcome, remark = several.run.outcomes[f"{name} ({platform})"]
        assert outcome == "skipped"
        assert f"there is no image for {platform}, only for: linux/amd64" in remark
    assert again.run.outcomes[f"{name} (linux/amd64)"] == ("up to date", "")


def test_an_entry_says_itself_which_tags_platforms_and_products_it_wants(
    one: Stage, back: Stage, work: Work
):
    for at in (one, back):
        found = [name for name in work.repository.names() if "m/tagged" in name]
        assert found == [work.named("m/tagged:1.10"), work.named("m/tagged:1.9")]
        for name in found:
            record = json.loads(at.layout.record(name).read_bytes())
            assert record["products"] == ["layers"]
            assert not at.layout.link(name).exists()


def test_each_platform_has_a_record_and_the_registrys_manifest(several: Stage, work: Work):
    for name in NAMES:
        assert not several.layout.metadata.joinpath(work.named(name)).exists()
        configs = set()
        for label in LABELS:
            path = f".multiarch/{label}/{work.named(name)}"
            record = json.loads(several.layout.record(path).read_bytes())
            assert record["name"] == path
            assert Platform.parse(record["platform"]).label == label
            raw = several.layout.manifest(path).read_bytes()
            assert record["manifest"] == str(digest_of(raw))
            configs.add(record["config"])
        assert len(configs) == 3


def test_more_platforms_convert_what_is_new_alone(one: Stage, several: Stage, work: Work):
    new = 2 * len(NAMES)
    assert sum(job.startswith("Fetch") for job in several.run.jobs) <= new
    assert len([job for job in several.run.jobs if job.startswith("Flatten")]) <= new
    assert several.run.counts == (3 * len(NAMES) + 1, 2, 0, 2)
    for name in NAMES:
        assert several.run.outcomes[f"{work.named(name)} (linux/arm64)"][0] == "converted"
        assert one.layout.link(work.named(name)).resolve().name == (
            several.layout.link(work.named(name)).resolve().name
        )


def test_several_platforms_without_a_change_are_no_job_and_one_poll_an_image(again: Stage):
    assert again.run.jobs == []
    assert again.run.asked("^GET .*/manifests/") == []
    assert len(again.run.asked("^HEAD .*/manifests/")) == len(NAMES) + 3


def test_another_order_of_platforms_changes_links_alone(reordered: Stage):
    assert kinds(reordered.run) == {"Publish"}
    assert reordered.run.blobs() == []


def test_back_to_one_platform_nothing_is_converted_again(back: Stage, work: Work):
    assert back.run.blobs() == []
    assert kinds(back.run) == {"Publish"}
    for name in NAMES:
        assert machine(back, work.named(name)) == "linux/amd64"
        assert "/.flat/" in str(back.layout.link(work.named(name)).readlink())
    assert json.loads(back.layout.remove_schedule.read_bytes()) == []


def test_published_images_of_several_platforms_are_as_their_manifests_say(back: Stage, work: Work):
    for name in work.repository.names():
        assert work.repository.verify(name) == []


# --- the same from Debian's docker-registry ------------------------------


def push_all(client: Client, registry: FullRegistry, name: str, target: Reference) -> None:
    """Push an image with all that it names, by digest, and at last the tag."""

    def push(reference: str, last: Reference) -> None:
        found = registry.store.manifest(name, reference)
        assert found
        manifest = parse_manifest(found[2])
        if isinstance(manifest, Index):
            for entry in manifest.manifests:
                push(str(entry.digest), replace(target, tag="", digest=entry.digest))
        else:
            for blob in (manifest.config, *manifest.layers):
                client.push_blob(target, blob, registry.store.blob_path(blob.digest))
        client.push_manifest(last, found[2], found[1])

    push("1", target)


def test_docker_registry_gives_each_platform_of_lists_indexes_and_nested_ones(
    work: Work, tmp_path: Path
):
    assert work.registry
    with (
        docker_registry(tmp_path / "registry") as running,
        Client({running.host: RegistrySettings(scheme="http")}) as client,
    ):
        for name in ("m/docker", "m/oci", "m/nested"):
            target = Reference.parse(f"http://{running.host}/{name}:1")
            push_all(client, work.registry, name, target)
            judged = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{target.name}")
            stored = work.registry.store.manifest(name, "1")
            assert stored and json.loads(judged) == json.loads(stored[2])
            for platform in map(Platform.parse, SEVERAL):
                _, manifest, config = select_image(client, target, platform)
                assert config.platform.label == platform.label
                local = Reference.parse(f"http://{work.registry.host}/{name}:1")
                assert select_image(client, local, platform)[1].digest == manifest.digest
