"""Thin images: pushed to Debian's docker-registry, with skopeo as the judge."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duccmake.oci.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_MANIFEST
from duccmake.oci.reference import Digest, Platform
from support.on_disk import OnDisk
from support.pipeline import digest_of
from support.registry import FullRegistry
from support.runs import REPOSITORY, Run, Work, fresh_work
from support.servers import (
    DockerRegistry,
    add_image,
    add_index,
    docker_registry,
    htpasswd,
    layer_of,
    skopeo,
)

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def layer(text: str) -> bytes:
    return layer_of({"file": text.encode()})[0]


BASE, TOP = layer("base"), layer("top")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("target")) as running:
        yield running


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, target: DockerRegistry) -> Iterator[Work]:
    with fresh_work(tmp_path_factory.mktemp("thin")) as work:
        registry = work.registry
        assert registry
        for tag in ("1", "2"):
            add_image(registry.store, "a/app", tag, layers=(BASE, TOP, layer(tag)))
        entries = [
            add_image(registry.store, "a/list", platform=platform, layers=(layer(str(platform)),))
            for platform in (AMD64, ARM64)
        ]
        add_index(registry.store, "a/list", "1", [entry.manifest for entry in entries])
        host = f"http://{work.host}"
        work.wish(
            version=2,
            output_format=f"http://{target.host}/thin/$(repository):$(tag)",
            input=[
                f"{host}/a/app:*",
                {"image": f"{host}/a/list:1", "platforms": ["linux/amd64", "linux/arm64"]},
            ],
        )
        work.configure(thin={"push": "auto"})
        yield work


@pytest.fixture(scope="module")
def first(work: Work) -> Run:
    return work.run(check=True)


@pytest.fixture(scope="module")
def again(work: Work, first: Run) -> Run:
    return work.run(check=True)


def inspect(target: DockerRegistry, name: str, *options: str) -> Any:
    return json.loads(
        skopeo("inspect", "--tls-verify=false", *options, f"docker://{target.host}/thin/{name}")
    )


def raw(target: DockerRegistry, name: str) -> bytes:
    return skopeo(
        "inspect", "--raw", "--tls-verify=false", f"docker://{target.host}/thin/{name}"
    ).encode()


def copied(target: DockerRegistry, name: str, directory: Path) -> dict[str, Any]:
    """What skopeo copies of a thin image: its manifest and, by digest, what it names."""
    skopeo(
        "copy", "--src-tls-verify=false", f"docker://{target.host}/thin/{name}", f"dir:{directory}"
    )
    manifest = json.loads((directory / "manifest.json").read_bytes())
    assert isinstance(manifest, dict)
    return manifest


def test_each_tag_of_a_glob_gets_a_thin_image_of_its_own(first: Run, target: DockerRegistry):
    pushed = {f"http://{target.host}/thin/a/{name}" for name in ("app:1", "app:2", "list:1")}
    assert {name for name, (outcome, _) in first.outcomes.items() if outcome == "pushed"} == pushed
    assert raw(target, "a/app:1") != raw(target, "a/app:2")


def test_skopeo_copies_a_thin_image_whose_layer_says_where_the_layers_are(
    first: Run, work: Work, target: DockerRegistry, tmp_path: Path
):
    manifest = copied(target, "a/app:1", tmp_path / "copy")
    assert manifest["mediaType"] == DOCKER_MANIFEST
    [only] = manifest["layers"]
    blob = (tmp_path / "copy" / only["digest"].partition(":")[2]).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob))) as archive:
        [member] = archive.getmembers()
        thin = json.load(archive.extractfile(member))  # type: ignore[arg-type]
    assert (member.name, member.mode, member.mtime) == ("thin.json", 0o644, 0)
    assert (thin["version"], thin["min_version"]) == ("1.0", "1.0")
    assert thin["origin"].startswith(f"http://{work.named('a/app:1')}@sha256:")
    digests = [digest_of(content).hex for content in (BASE, TOP, layer("1"))]
    assert [entry["digest"] for entry in thin["layers"]] == digests
    root = work.repository.path
    for entry in thin["layers"]:
        path = entry["url"].removeprefix(f"cvmfs://{REPOSITORY}/")
        assert (root / path).is_dir()
        assert (root / path) == OnDisk(root).layerfs(Digest("sha256", entry["digest"]))


def test_a_thin_image_runs_as_its_source_does(first: Run, target: DockerRegistry):
    config = inspect(target, "a/app:1", "--config")
    assert config["config"]["Env"] == ["PATH=/bin", "CVMFS_IMAGE=true"]
    assert (config["os"], config["architecture"]) == ("linux", "amd64")


def test_the_oci_form_names_its_source(first: Run, work: Work, target: DockerRegistry):
    manifest = json.loads(raw(target, "a/app:1-oci"))
    assert manifest["mediaType"] == OCI_MANIFEST
    record = work.repository.record(work.named("a/app:1"))
    assert record
    assert manifest["annotations"] == {
        "org.opencontainers.image.base.digest": str(record.manifest),
        "org.opencontainers.image.base.name": work.named("a/app:1"),
    }


def test_several_platforms_are_a_list(first: Run, target: DockerRegistry, tmp_path: Path):
    index = json.loads(raw(target, "a/list:1"))
    assert index["mediaType"] == DOCKER_LIST
    assert [entry["platform"] for entry in index["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
    ]
    for machine in ("amd64", "arm64"):
        config = inspect(target, "a/list:1", "--config", f"--override-arch={machine}")
        assert config["architecture"] == machine
    name = f"docker://{target.host}/thin/a/list:1"
    skopeo("copy", "--all", "--src-tls-verify=false", name, f"dir:{tmp_path}/copy")
    assert json.loads((tmp_path / "copy" / "manifest.json").read_bytes()) == index


def test_its_manifest_is_an_output_of_the_workflow(first: Run, work: Work, target: DockerRegistry):
    for name in ("app:1", "app:2", "list:1"):
        base = work.path / "results" / "thin" / REPOSITORY / work.named(f"a/{name}")
        [path] = base.glob("*.thin.json")
        assert path.read_bytes() == raw(target, f"a/{name}").strip(b"\n")


def test_what_did_not_change_is_neither_pushed_nor_looked_for_again(
    again: Run, target: DockerRegistry
):
    assert again.jobs == []
    assert target.host not in again.said


# --- a registry that wants credentials ----------------------------------


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    directory = tmp_path_factory.mktemp("closed")
    users = htpasswd(directory / "users", "me", "secret")
    auth = {"htpasswd": {"realm": "tests", "path": str(users)}}
    with docker_registry(directory / "registry", auth=auth) as running:
        yield running


@pytest.fixture(scope="module")
def poor(
    tmp_path_factory: pytest.TempPathFactory, work: Work, closed: DockerRegistry
) -> Iterator[Work]:
    """Somebody without credentials for the registry of the thin images."""
    home = tmp_path_factory.mktemp("poor")
    poor = Work(home / "work", work.registry, environment={"HOME": str(home)})
    poor.wish(
        "{host}/a/app:1",
        user="me",
        output_format=f"http://{closed.host}/thin/$(repository):$(tag)",
    )
    yield poor


def test_without_credentials_images_are_converted_and_a_line_says_that_nothing_is_pushed(
    poor: Work, closed: DockerRegistry
):
    poor.configure(thin={"push": "auto"})
    run = poor.run(check=True)
    assert run.counts == (1, 0, 0, 0)
    assert "1 thin image is not pushed: " in run.said
    assert f"registry {closed.host} takes no anonymous pushes" in run.said


def test_a_push_that_has_to_be_and_cannot_fails_alone(poor: Work, closed: DockerRegistry):
    poor.configure(thin={"push": "always"})
    run = poor.run()
    assert run.status == 1
    assert run.counts == (0, 1, 1, 0)
    outcome, reason = run.outcomes[f"http://{closed.host}/thin/a/app:1"]
    assert outcome == "failed" and "asks for credentials for thin/a/app; give credentials" in reason
    assert poor.repository.verify(poor.named("a/app:1")) == []


def test_the_recipe_s_user_pushes_with_the_password_of_ducc_s_variable(
    poor: Work, closed: DockerRegistry, tmp_path: Path
):
    rich = Work(
        poor.path,
        poor.registry,
        environment={**poor.environment, "DUCC_OUTPUT_REGISTRY_PASS": "secret"},
    )
    rich.configure(thin={"push": "auto"})
    run = rich.run(check=True)
    assert run.outcomes[f"http://{closed.host}/thin/a/app:1"][0] == "pushed"
    name = f"docker://{closed.host}/thin/a/app:1"
    skopeo("copy", "--src-tls-verify=false", "--src-creds=me:secret", name, f"dir:{tmp_path}/copy")
    assert (tmp_path / "copy" / "manifest.json").exists()
    kept_text = "".join(
        path.read_text(errors="replace")
        for path in rich.path.rglob("*")
        if path.is_file() and "cvmfs" not in path.relative_to(rich.path).parts
    )
    assert "secret" not in kept_text + run.said


# --- a registry that only lets read -------------------------------------


def test_a_registry_that_turns_out_to_take_no_pushes_is_left_alone(
    work: Work, tmp_path: Path, target: DockerRegistry
):
    with docker_registry(tmp_path / "proxy", proxy_of=f"http://{target.host}") as proxy:
        reader = Work(tmp_path / "work", work.registry, environment={"HOME": str(tmp_path)})
        reader.wish(
            "{host}/a/app:1",
            output_format=f"http://{proxy.host}/thin/new:$(tag)",
        )
        reader.configure(thin={"push": "auto"})
        run = reader.run(check=True)
        assert run.outcomes[f"http://{proxy.host}/thin/new:1"][0] == "skipped"
        again = reader.run()
    assert again.jobs == []
    assert f"registry {proxy.host} takes no anonymous pushes" in again.said


def test_with_credentials_that_may_only_read_one_line_says_so_and_nothing_is_tried_again(
    work: Work, tmp_path: Path
):
    users = {"reader": "secret"}
    with FullRegistry(tmp_path / "r", users=users, tokens=True, readers=users) as registry:
        reader = Work(
            tmp_path / "work",
            work.registry,
            environment={"HOME": str(tmp_path), "USER_R": "reader", "PASS_R": "secret"},
        )
        account = {"scheme": "http", "username_env": "USER_R", "password_env": "PASS_R"}
        reader.wish(
            "{host}/a/app:1",
            "{host}/a/app:2",
            output_format=f"http://{registry.host}/thin/$(repository):$(tag)",
        )
        reader.configure(thin={"push": "auto"}, registries={registry.host: account})
        run = reader.run(check=True)
        skipped = [line for line in run.stderr.splitlines() if line.startswith("skipped")]
        assert len(skipped) == 1 and "2 thin images" in skipped[0], run.said
        again = reader.run(check=True)
        assert again.jobs == []
        told = f"2 thin images are not pushed: registry {registry.host} takes no pushes with"
        assert again.stderr.count(told) == 1, again.said
        before = len(registry.requests)
        assert reader.run(check=True).jobs == []
        assert len(registry.requests) == before
