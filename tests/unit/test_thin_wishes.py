"""Which thin images are pushed, and what is asked of registries to know that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duccmake.config.configuration import Config
from duccmake.jobs.push_thin_image import push_thin
from duccmake.oci.reference import Platform, Reference
from duccmake.planning.model import PlannedImage, State
from duccmake.planning.thin_images import Thins, is_pushed, plan_thins
from duccmake.recipe.model import Recipe, Wish
from duccmake.registry.client import Client
from duccmake.repository.model import ImageRecord
from duccmake.workspace.results import content_store
from support.planned import image
from support.registry import FullRegistry
from support.servers import add_image, free_port

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
REPOSITORY = "unpacked.example.org"


class Setting:
    """Published images, and a registry that thin images of them go to."""

    def __init__(self, registry: FullRegistry, source: FullRegistry) -> None:
        self.registry = registry
        self.source = source
        self.images: list[PlannedImage] = []
        self.user = ""
        self.output_format = f"http://{registry.host}/thin/$(repository):$(tag)"
        self.settings: dict[str, Any] = {}
        self.wishes: tuple[Wish, ...] = ()

    def add(self, name: str, platform: Platform = AMD64, **members: Any) -> PlannedImage:
        """An image that is published, unless ``members`` say otherwise."""
        store = self.source.store
        made = add_image(
            store, name, "1", layers=(f"{name} {platform}".encode(),), platform=platform
        )
        found = store.manifest(name, str(made.manifest.digest))
        assert found
        content_store().put(made.manifest.digest, found[2])
        content_store().put(made.config.digest, store.blob_path(made.config.digest).read_bytes())
        wished = {
            "reference": Reference.parse(f"http://{self.source.host}/{name}:1"),
            "platform": platform,
            "manifest": made.manifest.digest,
            "config": made.config.digest,
            "layers": (),
            "state": State.PUBLISHED,
            "products": ("layers", "flat", "thin"),
            "why": "",
            **members,
        }
        self.images.append(image(f"{self.source.host}/{name}:1", **wished))
        return self.images[-1]

    def plan(self, **settings: Any) -> Thins:
        """What is to be pushed, as a run finds it."""
        self.registry.requests.clear()
        config = Config.parse({"thin": {**self.settings, **settings}}, workdir=Path.cwd())
        recipe = Recipe(
            Path("recipe.yaml"),
            REPOSITORY,
            user=self.user,
            output_format=self.output_format,
            wishes=self.wishes,
        )
        return plan_thins([recipe], self.images, config, content_store(), self._client)

    def push(self, thins: Thins) -> None:
        """Do what a job does for each."""
        for thin in thins.planned:
            images = [found for found in self.images if found.name in thin.images]
            with self._client({}) as client:
                done = push_thin(thin, images, _Holding(images), content_store(), client)
            thin.output.parent.mkdir(parents=True, exist_ok=True)
            thin.output.write_bytes(done)

    def asked(self) -> list[str]:
        return [str(request) for request in self.registry.requests]

    @staticmethod
    def _client(credentials: Any) -> Client:
        return Client({}, credentials=credentials, tries=1, backoff_seconds=0.001)


class _Holding:
    """A repository that has some images as they are wished for."""

    def __init__(self, images: list[PlannedImage]) -> None:
        self._images = {found.name: found for found in images}

    def record(self, name: str) -> ImageRecord | None:
        found = self._images[name]
        products = ("layers", "flat", "podman")
        return ImageRecord(name, found.platform, found.manifest, found.config, (), products, {})

    def variant(self, name: str) -> str:
        return "*"


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("DUCC_OUTPUT_REGISTRY_PASS", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def here(tmp_path) -> Iterator[Setting]:
    with FullRegistry(tmp_path / "target") as target, FullRegistry(tmp_path / "source") as source:
        yield Setting(target, source)


@pytest.fixture
def closed(tmp_path) -> Iterator[Setting]:
    """A setting whose registry wants credentials."""
    with (
        FullRegistry(tmp_path / "target", users={"me": "secret"}) as target,
        FullRegistry(tmp_path / "source") as source,
    ):
        yield Setting(target, source)


def names(thins: Thins) -> list[str]:
    return [thin.name.partition("/")[2] for thin in thins.planned]


def age(thins: Thins, seconds: float) -> None:
    for thin in thins.planned:
        then = thin.output.stat().st_mtime - seconds
        os.utime(thin.output, (then, then))


# --- what was pushed ----------------------------------------------------


def test_what_was_never_pushed_is_planned(here):
    here.add("a/one")
    here.add("a/two", products=("layers", "flat"))
    thins = here.plan()
    assert names(thins) == ["a/one:1"]
    assert thins.planned[0].target == f"http://{here.registry.host}/thin/a/one:1"
    assert thins.planned[0].why == "not in its registry"


def test_what_was_pushed_is_not_asked_for_in_the_next_runs(here):
    here.add("a/one")
    here.push(here.plan())
    assert here.plan().planned == []
    assert here.asked() == []


def test_what_was_pushed_long_ago_costs_a_head_and_then_none_again(here):
    here.add("a/one")
    here.add("a/two")
    thins = here.plan()
    here.push(thins)
    age(thins, 90_000)
    assert here.plan().planned == []
    heads = [asked for asked in here.asked() if asked.startswith("HEAD")]
    assert sorted(heads) == [f"HEAD /v2/thin/a/{name}/manifests/1" for name in ("one", "two")]
    assert here.plan().planned == [] and here.asked() == []


def test_what_is_gone_from_its_registry_is_pushed_again(here):
    here.add("a/one")
    thins = here.plan()
    here.push(thins)
    age(thins, 90_000)
    here.registry.store.delete_manifest("thin/a/one", "1")
    assert [thin.why for thin in here.plan().planned] == ["not in its registry"]


def test_what_somebody_else_pushed_under_the_name_is_replaced(here):
    here.add("a/one")
    thins = here.plan()
    here.push(thins)
    age(thins, 90_000)
    add_image(here.registry.store, "thin/a/one", "1")
    [thin] = here.plan().planned
    assert thin.why.startswith("another one is in its registry: ")


def test_lost_results_cost_a_head_each_and_no_push(here):
    here.add("a/one")
    thins = here.plan()
    here.push(thins)
    for thin in thins.planned:
        thin.output.unlink()
    assert here.plan().planned == []
    assert [str(asked) for asked in here.asked() if asked.startswith("HEAD")] == [
        "HEAD /v2/thin/a/one/manifests/1"
    ]
    assert all(is_pushed(thin) for thin in thins.planned)


def test_an_image_that_moved_is_planned_without_asking(here):
    here.add("a/one")
    here.push(here.plan())
    here.images.clear()
    here.add("a/one", ARM64, state=State.PENDING)
    [thin] = here.plan().planned
    assert thin.why == "new"
    assert [asked for asked in here.asked() if asked.startswith("HEAD")] == []


def test_an_image_that_only_gets_another_product_keeps_its_thin_image(here):
    found = here.add("a/one")
    here.push(here.plan())
    here.images[0] = replace(found, state=State.PENDING, why="published without podman")
    assert here.plan().planned == []


def test_the_note_of_a_failure_is_no_manifest(here):
    here.add("a/one")
    [thin] = here.plan().planned
    thin.output.parent.mkdir(parents=True)
    thin.output.write_bytes(b'{"duccmake-failure": {"found": "refused"}}')
    assert not is_pushed(thin)
    assert names(here.plan()) == ["a/one:1"]


def test_pushing_again_sends_nothing(here):
    here.add("a/one")
    thins = here.plan()
    here.push(thins)
    here.registry.requests.clear()
    here.push(thins)
    assert {asked.split()[0] for asked in here.asked()} == {"HEAD", "GET"}


def test_the_oci_form_refers_to_its_source_where_the_registry_knows_referrers(here):
    found = here.add("a/one")
    here.push(here.plan())
    [referrer] = here.registry.store.referrers("thin/a/one", str(found.manifest))
    top = here.registry.store.manifest("thin/a/one", "1-oci")
    assert top and referrer["digest"] == str(top[0])
    assert referrer["annotations"]["org.opencontainers.image.base.name"] == found.name


# --- registries that want credentials -----------------------------------


def test_nothing_is_pushed_where_there_are_no_credentials_and_that_is_said_once(closed):
    for name in ("a/one", "a/two", "a/three"):
        closed.add(name)
    thins = closed.plan()
    assert (thins.planned, thins.problems) == ([], [])
    [warning] = thins.warnings
    assert "3 thin images are not pushed: " in warning
    assert f"registry {closed.registry.host} takes no anonymous pushes" in warning
    assert closed.asked() == ["GET /v2/"]
    assert closed.plan().warnings == [warning]
    assert closed.asked() == []


def test_always_means_a_push_that_fails(closed):
    closed.add("a/one")
    assert names(closed.plan(push="always")) == ["a/one:1"]


def test_never_asks_nobody(here):
    here.add("a/one")
    assert here.plan(push="never") == Thins()
    assert here.asked() == []


def test_the_recipe_s_account_pushes_with_ducc_s_variable(closed, monkeypatch):
    closed.add("a/one")
    closed.user = "me"
    monkeypatch.setenv("DUCC_OUTPUT_REGISTRY_PASS", "secret")
    [thin] = closed.plan().planned
    assert thin.user == "me"


def test_the_recipe_s_password_is_not_handed_to_several_registries(closed, monkeypatch, tmp_path):
    closed.user = "me"
    monkeypatch.setenv("DUCC_OUTPUT_REGISTRY_PASS", "secret")
    closed.output_format = "http://$(registry)/thin/$(repository):$(tag)"
    closed.add("a/one")
    with FullRegistry(tmp_path / "other") as other:
        elsewhere = Reference.parse(f"http://{other.host}/a/two:1")
        closed.images.append(replace(closed.images[0], reference=elsewhere))
        thins = closed.plan()
        assert not any(request.authorization for request in other.requests)
    assert {thin.user for thin in thins.planned} == {""}
    assert "DUCC_OUTPUT_REGISTRY_PASS is not used: " in thins.warnings[0]


def test_the_recipe_s_password_is_not_handed_to_the_one_registry_that_answers(closed, monkeypatch):
    closed.user = "me"
    monkeypatch.setenv("DUCC_OUTPUT_REGISTRY_PASS", "secret")
    closed.output_format = "http://$(registry)/thin/$(repository):$(tag)"
    found = closed.add("a/one")
    down = Reference.parse("http://down.example.org/a/two:v*")
    closed.wishes = (Wish(found.reference, 1), Wish(down, 2))
    thins = closed.plan()
    assert {thin.user for thin in thins.planned} <= {""}
    assert "leads to 2 registries" in thins.warnings[0]


def test_a_registry_that_is_down_fails_what_was_never_pushed_once(here):
    for name in ("a/one", "a/two"):
        here.add(name)
    here.output_format = f"http://localhost:{free_port()}/thin/$(repository):$(tag)"
    thins = here.plan(push="always")
    assert thins.planned == []
    assert len({reason for _, _, reason, _ in thins.problems}) == 1
    assert "not reached" in thins.problems[0][2]


def test_a_registry_that_is_down_does_not_matter_to_what_was_pushed(here):
    here.add("a/one")
    thins = here.plan()
    here.push(thins)
    age(thins, 90_000)
    here.registry.close()
    again = here.plan(push="always")
    assert (again.planned, again.problems) == ([], [])
    assert "they are looked for later" in again.warnings[0]


# --- names --------------------------------------------------------------


def test_a_thin_image_never_overwrites_a_source(here):
    here.add("a/one")
    here.output_format = f"http://{here.source.host}/$(repository):$(tag)"
    thins = here.plan()
    assert thins.planned == []
    assert "an image that is wished for itself" in thins.problems[0][2]


@pytest.mark.parametrize("glob", ["thin-*", "*-oci"])
def test_no_glob_that_is_wished_for_may_bring_thin_images(here, glob):
    found = here.add("a/one")
    here.output_format = f"http://{here.source.host}/$(repository):thin-$(tag)"
    here.wishes = (Wish(replace(found.reference, tag=glob), 1),)
    thins = here.plan()
    assert thins.planned == []
    assert "an image that is wished for itself" in thins.problems[0][2]


def test_two_thin_images_of_one_name_are_refused_but_for_the_first(here):
    here.add("a/one")
    here.add("a/two")
    here.output_format = f"http://{here.registry.host}/thin:$(tag)"
    thins = here.plan()
    assert names(thins) == ["a/one:1"]
    [(_, name, reason, _)] = thins.problems
    assert name.endswith("a/two:1") and "tell them apart in output_format" in reason


def test_images_in_files_need_a_registry_in_the_format(here):
    found = here.add("a/one")
    here.images[0] = replace(found, reference=Reference.parse("oci:/srv/ci/app:1"))
    here.output_format = "$(scheme)://$(registry)/$(repository)_thin:$(tag)"
    thins = here.plan()
    assert (thins.planned, thins.problems) == ([], [])
    assert "1 of the images are in files" in thins.warnings[0]
    assert "output_format makes" in here.plan(push="always").problems[0][2]


# --- several platforms --------------------------------------------------


def test_platforms_that_are_published_do_not_wait_for_others(here):
    variants = ("amd64", "arm64")
    one = here.add("a/one", AMD64, variants=variants)
    here.add("a/one", ARM64, variants=variants, state=State.PENDING)
    first = here.plan()
    assert [thin.images for thin in first.planned] == [(one.name,)]
    here.push(first)
    second = here.plan()
    assert [len(thin.images) for thin in second.planned] == [2]
    here.images[1] = replace(here.images[1], state=State.PUBLISHED)
    here.push(here.plan())
    assert here.plan().planned == []
