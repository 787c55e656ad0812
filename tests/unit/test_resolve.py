"""What polls and pulls amount to: what is asked, in which order, and what stays in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.errors import DuccmakeError
from duccmake.oci.content_store import ContentStore
from duccmake.oci.manifest import OCI_MANIFEST
from duccmake.oci.reference import Platform, Reference
from duccmake.oci.tags import TagRules
from duccmake.planning.poll_memory import PollMemory
from duccmake.planning.resolution import Resolution, Resolved, Unresolved
from duccmake.planning.resolver import Resolver
from duccmake.recipe.entry import Wished
from duccmake.recipe.model import Recipe, Wish
from duccmake.registry.client import Client
from duccmake.registry.settings import RegistrySettings
from support import faulty_registry as faults
from support.faulty_registry import FaultyRegistry, PullLimit
from support.samples import AMD64
from support.servers import add_image, add_index


class Setting:
    """A registry, and what is remembered of it; each `resolve` is a run of its own."""

    def __init__(self, registry: FaultyRegistry, root: Path) -> None:
        self.registry = registry
        self.root = root
        self.published: set[str] = set()
        self.platforms = [AMD64]
        self.warnings: list[str] = []
        self.pulls: dict[str, tuple[int, int]] = {}
        self.mirrors: tuple[str, ...] = ()

    def add(self, *names: str, content: str = "") -> None:
        for name in names:
            layers = (f"{name}{content}".encode(),)
            add_image(self.registry.store, name, "1", layers=layers)

    def resolve(self, *names: str) -> Resolution:
        """Resolve ``name`` (with the tag 1) or ``name:tag``, with a client of its own."""
        return self.resolve_all([names])[0]

    def resolve_all(self, lists: list[tuple[str, ...]], max_age: float = 0.0) -> list[Resolution]:
        return self._resolve([self._wishes(names) for names in lists], max_age)

    def resolve_wishes(self, wishes: tuple[Wish, ...]) -> Resolution:
        return self._resolve([wishes], 0.0)[0]

    def _resolve(self, lists: list[tuple[Wish, ...]], max_age: float) -> list[Resolution]:
        recipes = [
            Recipe(Path(f"{number}.yaml"), f"{number}.example.org", wishes=wishes)
            for number, wishes in enumerate(lists)
        ]
        settings = {
            self.registry.host: RegistrySettings(
                scheme="http", timeout_seconds=2.0, mirrors=self.mirrors
            )
        }
        self.registry.requests.clear()
        with Client(settings, tries=2, backoff_seconds=0.001, deadline_seconds=10.0) as client:
            resolver = Resolver(
                client,
                PollMemory(self.root / "polls.json"),
                ContentStore(self.root / "store"),
                max_age=max_age,
            )
            resolutions = resolver.resolve(
                recipes, self.platforms, is_published=lambda recipe, name: name in self.published
            )
        self.warnings, self.pulls = resolver.warnings, resolver.pulls
        return resolutions

    @property
    def store(self) -> ContentStore:
        return ContentStore(self.root / "store")

    def _wishes(self, names: tuple[str, ...]) -> tuple[Wish, ...]:
        texts = [name if ":" in name else f"{name}:1" for name in names]
        return tuple(
            Wish(Reference.parse(f"http://{self.registry.host}/{text}"), 1) for text in texts
        )

    def publish(self, *names: str) -> None:
        """Say that these are in the repository."""
        self.published |= {f"{self.registry.host}/{name}:1" for name in names}

    def asked(self, method: str) -> list[str]:
        """Names of repositories whose manifests were asked for with this method."""
        paths = [r.path for r in self.registry.requests if r.method == method]
        return [path.split("/manifests/")[0][4:] for path in paths if "/manifests/" in path]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Setting]:
    with FaultyRegistry(tmp_path / "registry") as registry:
        yield Setting(registry, tmp_path)


def stale(resolution: Resolution) -> dict[str, str]:
    return {item.reference.repository: item.stale for item in resolution.resolved if item.stale}


def reasons(resolution: Resolution) -> list[str]:
    return [item.reason for item in resolution.unresolved]


# --- what is asked ------------------------------------------------------


def test_images_that_did_not_change_cost_one_head_each_and_no_pull(here):
    here.add("a/one", "a/two", "a/three")
    here.resolve("a/one", "a/two", "a/three")
    again = here.resolve("a/one", "a/two", "a/three")
    assert sorted(here.registry.requested()) == sorted(
        f"HEAD /v2/a/{name}/manifests/1" for name in ("one", "two", "three")
    )
    assert len(again.resolved) == 3 and not stale(again) and not here.warnings


def test_only_what_changed_is_pulled(here):
    here.add("a/one", "a/two")
    before = here.resolve("a/one", "a/two").resolved
    here.add("a/two", content="new")
    after = here.resolve("a/one", "a/two").resolved
    assert here.asked("GET") == ["a/two"]
    assert [x.manifest == y.manifest for x, y in zip(before, after, strict=True)] == [True, False]


def test_an_answer_that_is_young_enough_is_believed(here):
    here.add("a/one")
    here.resolve("a/one", "a/one:*")
    (resolution,) = here.resolve_all([("a/one", "a/one:*")], max_age=3600.0)
    assert len(resolution.resolved) == 1
    assert here.registry.requests == []


def test_a_digest_that_is_known_is_not_asked_for(here):
    image = add_image(here.registry.store, "a/one", "1")
    name = f"a/one@{image.manifest.digest}"
    here.resolve(name)
    assert [item.manifest for item in here.resolve(name).resolved] == [image.manifest.digest]
    assert here.registry.requests == []


def test_an_image_of_several_platforms_is_polled_by_its_index(here):
    arm = add_image(here.registry.store, "a/one", platform=Platform("linux", "arm64"))
    amd = add_image(here.registry.store, "a/one", platform=AMD64)
    add_index(here.registry.store, "a/one", "1", [arm.manifest, amd.manifest])
    here.resolve("a/one")
    (found,) = here.resolve("a/one").resolved
    assert found.manifest == amd.manifest.digest
    assert [request.method for request in here.registry.requests] == ["HEAD"]


def test_what_was_lost_of_the_memory_is_pulled_again(here):
    here.add("a/one")
    (before,) = here.resolve("a/one").resolved
    for path in (here.root / "store").rglob("*"):
        if path.is_file():
            path.unlink()
    (after,) = here.resolve("a/one").resolved
    assert before == after


def test_what_was_damaged_of_the_memory_is_pulled_again(here):
    here.add("a/one")
    (before,) = here.resolve("a/one").resolved
    for path in (here.root / "store").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:20])
    (after,) = here.resolve("a/one").resolved
    assert before == after


def test_manifest_and_configuration_can_be_read_until_they_are_damaged(here):
    here.add("a/one")
    (found,) = here.resolve("a/one").resolved
    manifest, config = found.read(here.store)
    assert manifest.digest == found.manifest and len(config.diff_ids) == 1
    path = here.store.path(found.config)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DuccmakeError, match="run again"):
        found.read(here.store)


# --- budgets ------------------------------------------------------------


def test_a_short_budget_goes_to_what_was_never_published(here):
    old, new = ("a/old1", "a/old2", "a/old3"), ("b/new1", "b/new2", "b/new3")
    here.add(*old, *new)
    here.resolve(*old)
    assert here.pulls == {}, "nothing was told of a budget"
    here.publish(*old)
    here.add(*old, content="changed")
    limit = PullLimit(4)
    here.registry.break_next("manifests", limit, times=999)
    resolution = here.resolve(*old, *new)
    assert set(here.asked("GET")[:3]) == set(new)
    assert len(here.asked("GET")) == 4 and limit.refused == 0
    assert len(resolution.resolved) == 6 and not resolution.unresolved
    waiting = stale(resolution)
    assert len(waiting) == 2 and set(waiting) < set(old)
    assert set(waiting.values()) == {
        f"waits until registry {here.registry.host} allows more requests"
    }
    (line,) = here.warnings
    assert "allows no more pulls" in line
    assert here.pulls == {here.registry.host: (0, 2)}


def test_wish_lists_of_several_repositories_share_the_budget(here):
    here.add("a/old", "b/new")
    here.resolve_all([("a/old",)])
    here.publish("a/old")
    here.add("a/old", content="changed")
    here.registry.break_next("manifests", PullLimit(1), times=999)
    first, second = here.resolve_all([("a/old",), ("b/new",)])
    assert here.asked("GET") == ["b/new"]
    assert stale(first) and not stale(second) and len(second.resolved) == 1


def test_new_images_beyond_the_budget_are_reported_as_waiting(here):
    here.add("a/old", "b/new1", "b/new2")
    here.resolve("a/old")
    here.registry.break_next("manifests", PullLimit(1), times=999)
    resolution = here.resolve("a/old", "b/new1", "b/new2")
    assert len(resolution.resolved) == 2
    (item,) = resolution.unresolved
    assert item.passing and item.reason.startswith("waits until registry")


def test_no_budget_left_means_polls_alone(here):
    here.add("a/old", "a/same")
    here.resolve("a/old", "a/same")
    here.add("a/old", content="changed")
    here.registry.break_next("manifests", PullLimit(0), times=999)
    resolution = here.resolve("a/old", "a/same")
    assert set(stale(resolution)) == {"a/old"}
    assert sorted(here.asked("HEAD")) == ["a/old", "a/same"] and here.asked("GET") == []


def test_a_limit_that_is_renewed_within_minutes_is_no_budget(here):
    here.add("a/old")
    here.resolve("a/old")
    here.add("a/old", content="changed")
    limit = PullLimit(0, window_seconds=60)
    here.registry.break_next("^HEAD .*manifests", limit, times=999)
    assert not stale(here.resolve("a/old"))


@pytest.mark.parametrize("wait", [{"Retry-After": "4000"}, {}])
def test_pulls_that_are_refused_stop_no_poll(here, wait):
    old = [f"a/old{number}" for number in range(30)]
    new = [f"b/new{number}" for number in range(100)]
    here.add(*old, *new)
    here.resolve(*old)
    here.publish(*old)
    here.add(old[0], content="changed")
    plan = here.registry.break_next(
        "^GET .*manifests", faults.status(429, **{k.replace("-", "_"): v for k, v in wait.items()}),
        times=9999,
    )  # fmt: skip
    resolution = here.resolve(*old, *new)
    assert len(here.asked("HEAD")) == 30
    assert set(stale(resolution)) == {old[0]}
    assert len(resolution.unresolved) == 100 and all(i.passing for i in resolution.unresolved)
    assert len(here.warnings) == 1
    # Those that were under way, and none of those that came after.
    assert plan.seen < 90


# --- registries in trouble ----------------------------------------------


def test_a_registry_that_is_down_is_told_once_and_what_is_known_stays_in_force(here):
    names = [f"a/image{number}" for number in range(50)]
    here.add(*names)
    before = here.resolve(*names).resolved
    here.registry.close()
    resolution = here.resolve(*names, "b/never", "b/ever:*")
    assert [(i.reference, i.manifest) for i in before] == [
        (i.reference, i.manifest) for i in resolution.resolved
    ]
    brief = f"registry {here.registry.host} not reached"
    assert set(stale(resolution).values()) == {brief} == set(reasons(resolution))
    assert len(resolution.unresolved) == 2 and all(i.passing for i in resolution.unresolved)
    (line,) = here.warnings
    assert brief in line and "refused" in line


def test_a_registry_that_keeps_failing_is_told_once_and_asked_no_more(here):
    names = [f"a/image{number}" for number in range(200)]
    here.add(*names)
    here.resolve(*names)
    plan = here.registry.break_next("", faults.status(503), times=99999)
    resolution = here.resolve(*names)
    assert set(stale(resolution).values()) == {f"registry {here.registry.host} not reached"}
    assert len(stale(resolution)) == 200
    (line,) = here.warnings
    assert "503" in line
    assert plan.seen < 60


def test_trouble_with_one_image_is_told_with_its_name(here):
    here.add("a/good", "a/bad")
    here.resolve("a/good", "a/bad")
    here.registry.break_next("/a/bad/", faults.status(500), times=999)
    resolution = here.resolve("a/good", "a/bad")
    assert set(stale(resolution)) == {"a/bad"}
    assert "a/bad:1: resolve: " in stale(resolution)["a/bad"]
    assert not here.warnings


@pytest.mark.parametrize("pattern", ["", "^GET"])
def test_a_login_page_instead_of_a_registry_leaves_what_is_known_in_force(here, pattern):
    here.add("a/known", "a/new")
    before = here.resolve("a/known").resolved
    here.add("a/known", content="changed")
    here.registry.break_next(pattern, faults.html, times=9999)
    resolution = here.resolve("a/known", "a/new")
    assert [item.manifest for item in resolution.resolved] == [item.manifest for item in before]
    assert "page" in stale(resolution)["a/known"]
    (item,) = resolution.unresolved
    assert item.passing and "login page" in item.reason


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_told_and_is_not_taken_for_a_change(here, code):
    here.add("a/known")
    here.resolve("a/known")
    here.registry.break_next("", faults.status(code), times=9999)
    resolution = here.resolve("a/known")
    assert not resolution.resolved
    (item,) = resolution.unresolved
    assert not item.passing
    assert str(code) in item.reason or "asks for nothing" in item.reason


# --- tags ---------------------------------------------------------------


def test_what_head_names_and_nobody_has_under_its_digest_is_pulled_by_the_tag(here):
    here.add("a/one")
    here.resolve("a/one")
    here.add("a/one", content="new")
    there = here.registry.store.manifest("a/one", "1")[0]
    here.registry.break_next("^HEAD", faults.lying_digest, times=9)
    (found,) = here.resolve("a/one").resolved
    assert found.manifest == there


def test_a_glob_stands_for_the_tags_there_are(here):
    for tag in ("1.0", "1.1", "1x0"):
        add_image(here.registry.store, "a/one", tag)
    assert [i.reference.tag for i in here.resolve("a/one:1.*").resolved] == ["1.0", "1.1"]


@pytest.mark.parametrize("fault", [faults.status(500), faults.status(404), faults.html])
def test_a_listing_that_fails_leaves_the_last_one_in_force(here, fault):
    here.add("a/one")
    before = here.resolve("a/one:*").resolved
    add_image(here.registry.store, "a/one", "2")
    here.registry.break_next("tags/list", fault, times=99)
    resolution = here.resolve("a/one:*")
    assert resolution.resolved == before
    (line,) = here.warnings
    assert "tags of the last listing stay in force" in line


def test_a_listing_that_does_not_lead_to_its_end_adds_to_the_last_one_and_is_told(here):
    here.add("a/one")
    assert len(here.resolve("a/one:?").resolved) == 1
    add_image(here.registry.store, "a/one", "2")

    def a_hundred(handler, answer):
        wanted = handler.path.endswith("?n=100")
        body = {"tags": ["2", *(f"other{number}" for number in range(99))]}
        handler.send(faults.Answer(200 if wanted else 400, {}, json.dumps(body).encode()))

    here.registry.break_next("tags/list", a_hundred, times=99)
    found = here.resolve("a/one:?").resolved
    assert [item.reference.tag for item in found] == ["1", "2"]
    (line,) = here.warnings
    assert "a/one:?" in line and "100 tags, as many as it was asked for" in line


def test_mirrors_list_tags_where_the_registry_does_not_answer_with_those_that_are_known(
    here, tmp_path
):
    here.add("a/one")
    with FaultyRegistry(tmp_path / "mirror") as mirror:
        here.mirrors = (mirror.url,)
        for tag in ("1", "2", "3"):
            add_image(mirror.store, "a/one", tag)
        assert [i.reference.tag for i in here.resolve("a/one:*").resolved] == ["1"]
        here.registry.break_next("", faults.status(503), times=999)
        found = here.resolve("a/one:*")
        assert [i.reference.tag for i in found.resolved] == ["1", "2", "3"]
        # A mirror that has less is no reason to forget what the registry listed.
        mirror.store.delete_manifest("a/one", "1")
        mirror.store.delete_manifest("a/one", "2")
        assert [i.reference.tag for i in here.resolve("a/one:*").resolved] == ["1", "3"]
        assert here.resolve("a/two:*").unresolved[0].passing


@pytest.mark.parametrize("code", [401, 403, 404])
def test_mirrors_are_not_asked_for_what_the_registry_refuses_to_list(here, tmp_path, code):
    with FaultyRegistry(tmp_path / "mirror") as mirror:
        here.mirrors = (mirror.url,)
        add_image(mirror.store, "a/one", "1")
        here.registry.break_next("", faults.status(code), times=999)
        assert here.resolve("a/one:*").resolved == ()
        assert mirror.requests == []


def test_a_listing_that_never_worked_is_a_problem_of_the_glob_alone(here):
    here.add("a/one", "a/two")
    here.registry.break_next("/a/one/tags/list", faults.status(404), times=99)
    resolution = here.resolve("a/one:*", "a/two:*")
    assert [item.reference.repository for item in resolution.resolved] == ["a/two"]
    (item,) = resolution.unresolved
    assert item.name.endswith("/a/one:*") and "404" in item.reason


def test_a_tag_that_vanishes_between_listing_and_use_fails_alone(here):
    add_image(here.registry.store, "a/one", "1")
    add_image(here.registry.store, "a/one", "2")
    here.registry.break_next("manifests/2", faults.status(404), times=99)
    resolution = here.resolve("a/one:*")
    assert [item.reference.tag for item in resolution.resolved] == ["1"]
    assert [item.name.rpartition(":")[2] for item in resolution.unresolved] == ["2"]


def test_one_image_that_cannot_be_used_hinders_no_other(here):
    here.add("a/one", "a/two")
    add_image(here.registry.store, "a/chart", "1", config_type="application/vnd.cncf.helm.config")
    resolution = here.resolve("a/one", "a/chart", "a/two", "a/none")
    assert [type(item) for item in resolution.resolved] == [Resolved, Resolved]
    assert [type(item) for item in resolution.unresolved] == [Unresolved, Unresolved]
    assert ["helm" in reasons(resolution)[0], "404" in reasons(resolution)[1]] == [True, True]


def test_what_another_image_brought_has_to_have_the_size_that_this_one_s_descriptor_has(here):
    here.add("a/right")
    store = here.registry.store
    image = add_image(store, "a/right", "1")
    manifest = json.loads(store.blob_path(image.manifest.digest).read_bytes())
    manifest["config"]["size"] += 1
    store.put_manifest("a/wrong", OCI_MANIFEST, json.dumps(manifest).encode(), "1")
    assert here.resolve("a/right").resolved
    resolution = here.resolve("a/right", "a/wrong")
    assert [item.reference.repository for item in resolution.resolved] == ["a/right"]
    assert f"{image.config.size} bytes where its descriptor has" in reasons(resolution)[0]


# --- several platforms, and what entries wish of their own ---------------

ARM64, S390X = Platform("linux", "arm64"), Platform("linux", "s390x")


def add_platforms(here: Setting, name: str, *platforms: Platform, tag: str = "1") -> None:
    entries = [
        add_image(here.registry.store, name, platform=platform, layers=(str(platform).encode(),))
        for platform in platforms
    ]
    add_index(here.registry.store, name, tag, [entry.manifest for entry in entries])


def found(resolution: Resolution) -> list[tuple[str, str]]:
    return [(item.reference.tag, str(item.platform)) for item in resolution.resolved]


def test_what_platforms_have_in_common_is_asked_for_once(here):
    here.platforms = [AMD64, ARM64]
    add_platforms(here, "a/one", AMD64, ARM64)
    assert found(here.resolve("a/one")) == [("1", "linux/amd64"), ("1", "linux/arm64")]
    assert here.asked("GET") == ["a/one"] * 3
    here.resolve("a/one")
    assert (here.asked("HEAD"), here.asked("GET")) == (["a/one"], [])


def test_a_platform_more_costs_its_own_manifest_alone(here):
    add_platforms(here, "a/one", AMD64, ARM64)
    here.resolve("a/one")
    here.platforms = [AMD64, ARM64]
    assert len(here.resolve("a/one").resolved) == 2
    assert (here.asked("HEAD"), here.asked("GET")) == (["a/one"], ["a/one"])


def test_a_platform_that_an_image_lacks_is_reported_alone_and_costs_no_pull_again(here):
    here.platforms = [AMD64, S390X]
    add_platforms(here, "a/one", AMD64)
    for _ in range(2):
        resolution = here.resolve("a/one")
        assert found(resolution) == [("1", "linux/amd64")]
        [missing] = resolution.unresolved
        assert (missing.platform, missing.passing) == (S390X, False)
        assert "there is no image for linux/s390x, only for: linux/amd64" in missing.reason
    assert (here.asked("HEAD"), here.asked("GET")) == (["a/one"], [])


def test_images_of_several_platforms_have_a_path_each(here):
    here.platforms = [AMD64, ARM64]
    add_platforms(here, "a/one", AMD64, ARM64)
    name = f"{here.registry.host}/a/one:1"
    assert [item.path for item in here.resolve("a/one").resolved] == [
        f".multiarch/amd64/{name}",
        f".multiarch/arm64/{name}",
    ]


def test_an_entry_s_own_platforms_count_and_before_those_of_a_glob(here):
    for tag in ("1", "2"):
        add_platforms(here, "a/one", AMD64, ARM64, tag=tag)
    reference = Reference.parse(f"http://{here.registry.host}/a/one:*")
    wishes = (
        Wish(reference, 1, wished=Wished(products=("layers",))),
        Wish(reference.with_tag("2"), 2, wished=Wished(platforms=(ARM64,))),
    )
    resolution = here.resolve_wishes(wishes)
    assert found(resolution) == [("1", "linux/amd64"), ("2", "linux/arm64")]
    assert [item.products for item in resolution.resolved] == [("layers",), ()]


def test_tag_rules_choose_among_the_tags_of_the_registry(here):
    for tag in ("1.8", "1.9", "1.10", "1.11-rc1", "latest"):
        add_image(here.registry.store, "a/one", tag)
    reference = Reference.parse(f"http://{here.registry.host}/a/one:*")
    rules = TagRules(("1.*",), ("*-rc*",), 2)
    resolution = here.resolve_wishes((Wish(reference, 1, wished=Wished(tags=rules)),))
    assert [item.reference.tag for item in resolution.resolved] == ["1.10", "1.9"]


def test_a_glob_that_brings_nothing_is_told(here):
    here.add("a/one")
    assert here.resolve("a/one:v*").resolved == ()
    [warning] = here.warnings
    assert "a/one:v* brings nothing: none of the 1 tags" in warning
