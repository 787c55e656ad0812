"""No image touches another in what came before: kept, in its time of grace, DUCC's, poisoned."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from support.cvmfs_repositories import StandIn
from support.ducc_repository import leave_as_ducc
from support.images import LayerBuilder
from support.poisoned_repository import poison
from support.published_images import Reader, read
from support.runs import REPOSITORY, Run, Work, days_later, fresh_work
from support.shared_images import RECOMPRESSED, Blob, Spec, Tree, gzipped, honest, lying

PREFIX = "team/"
ALL = ["layers", "flat", "podman"]


def blob(text: str) -> Blob:
    return gzipped(LayerBuilder().file("content", text).tar())


GOOD, EVIL = blob("good"), blob("EVIL")
VICTIM = honest("victim", GOOD, author="victim")
OTHER = honest("other", GOOD, gzipped(LayerBuilder().file("more", "more").tar()), author="other")
OWN = honest("the liar's other image", EVIL, author="liar")
LIAR = lying(
    replace(VICTIM, blobs=(EVIL,)), "victim's configuration over another layer", VICTIM.claims
)
AGAIN = replace(
    VICTIM, kind="victim, recompressed", blobs=(RECOMPRESSED["zstd"](GOOD.tar),), author="victim"
)
SPECS = (VICTIM, OTHER, OWN, LIAR, AGAIN)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with fresh_work(tmp_path) as work:
        configure(work)
        yield work


def configure(work: Work, **settings: object) -> None:
    work.configure(**{"platforms": ["linux/amd64"], "products": ALL, **settings})


def run(work: Work, images: Mapping[str, Spec], *options: str, day: float = 0) -> Run:
    """Push images, wish for them and no others, and run on a day."""
    assert work.registry
    for name, spec in images.items():
        spec.push(work.registry.store, f"{PREFIX}{name}")
    work.wish(*(f"{{host}}/{PREFIX}{name}" for name in images))
    return days_later(work, day).run(*options)


def outcome(work: Work, run: Run, name: str) -> tuple[str, str]:
    return run.outcomes[work.named(f"{PREFIX}{name}")]


def assert_refused(work: Work, run: Run, name: str) -> None:
    """The liar failed, or what it had published is removed: both values are named."""
    said, reason = outcome(work, run, name)
    assert said in ("failed", "removed"), run.said
    for value in LIAR.refused[0]:
        assert value.partition(":")[2][:12] in reason
    assert run.status != 0


def problems(work: Work, visible: Mapping[str, Spec]) -> list[str]:
    """What is wrong in the repository, where ``visible`` shall be there and nothing else."""
    reader = Reader(work.repository.path, work.host)
    named = {f"{PREFIX}{name}": spec for name, spec in visible.items()}
    return list(reader.problems(PREFIX, SPECS, named))


# --- in every order --------------------------------------------------------------


def test_a_configuration_is_no_liars_whoever_comes_first_and_whatever_the_names_are(work: Work):
    """Four sets at once: the liar before, after, and together with its victim by two names."""
    assert work.registry
    readers: dict[str, tuple[dict[str, Spec], dict[str, Spec]]] = {}
    steps: list[dict[str, Spec]] = [{}, {}]
    for number, (liar, victim, name) in enumerate(
        [(0, 1, "z:1"), (1, 0, "z:1"), (0, 0, "z:1"), (0, 0, "a:1")]
    ):
        good, evil = blob(f"good {number}"), blob(f"EVIL {number}")
        original = honest("victim", good, author=f"victim {number}")
        lie = lying(replace(original, blobs=(evil,)), "liar", original.claims)
        own = honest("own", evil, author=f"liar {number}")
        prefix = f"set{number}/"
        steps[victim][f"{prefix}m:1"] = original
        steps[liar] |= {f"{prefix}{name}": lie, f"{prefix}own:1": own}
        readers[prefix] = (
            {f"{prefix}m:1": original, f"{prefix}own:1": own},
            {f"{prefix}{name}": lie},
        )
    wished: list[str] = []
    for step in steps:
        for image, spec in step.items():
            spec.push(work.registry.store, image)
        wished += [f"{{host}}/{image}" for image in step]
        work.wish(*wished)
        done = work.run()
    found = []
    reader = Reader(work.repository.path, work.host)
    for prefix, (visible, lies) in readers.items():
        found += reader.problems(prefix, [*visible.values(), *lies.values()], visible)
        found += [
            f"{image} is {done.outcomes[work.named(image)]}"
            for image in lies
            if done.outcomes[work.named(image)][0] != "failed"
        ]
    assert found == [], "\n".join(found)


# --- time of grace, history, rollback -----------------------------------------------


def test_what_is_in_its_time_of_grace_comes_back_as_it_was_whoever_asked_for_it_meanwhile(
    work: Work,
):
    configure(work, removal={"policy": "prune", "grace_days": 9, "max_percent": 100})
    run(work, {"own:1": OWN, "victim:1": VICTIM})
    run(work, {"own:1": OWN}, day=1)
    assert problems(work, {"own:1": OWN}) != [], "the flat tree is kept"
    assert_refused(work, run(work, {"own:1": OWN, "liar:1": LIAR}, day=2), "liar:1")
    back = run(work, {"own:1": OWN, "victim:1": VICTIM, "liar:1": LIAR}, day=3)
    assert outcome(work, back, "victim:1") == ("converted", "")
    assert back.blobs() == [], "its layer was kept"
    assert_refused(work, back, "liar:1")
    assert problems(work, {"own:1": OWN, "victim:1": VICTIM}) == []


def test_an_image_stays_whole_when_the_one_leaves_that_has_its_configuration(work: Work):
    configure(work, removal={"policy": "prune", "grace_days": 1, "max_percent": 100})
    first = run(work, {"victim:1": VICTIM, "again:1": AGAIN})
    assert first.status == 0, first.said
    assert problems(work, {"victim:1": VICTIM, "again:1": AGAIN}) == []
    for day in (1, 3, 5):
        assert run(work, {"again:1": AGAIN}, day=day).status == 0
    assert problems(work, {"again:1": AGAIN}) == []
    assert outcome(work, run(work, {"again:1": AGAIN}, day=6), "again:1") == ("up to date", "")


def test_a_tag_is_pointed_back_to_its_own_content_whoever_has_its_configuration(work: Work):
    configure(work, history={"keep": 1})
    run(work, {"app:1": VICTIM, "own:1": OWN})
    good = work.repository.record(work.named("team/app:1"))
    assert good
    run(work, {"app:1": OTHER, "own:1": OWN})
    lie = run(work, {"app:1": OTHER, "own:1": OWN, "liar:1": LIAR})
    assert_refused(work, lie, "liar:1")
    assert work.content(f"team/app@{good.manifest}") == "good"
    turned = run(work, {"app:1": LIAR, "own:1": OWN})
    assert_refused(work, turned, "app:1")
    assert problems(work, {"app:1": OTHER, "own:1": OWN, f"app@{good.manifest}": VICTIM}) == []
    name = work.named("team/app:1")
    back = work.run("rollback", "--config", f"image={name}", f"digest={good.manifest}")
    assert back.status == 0, back.said
    assert work.content("team/app:1") == "good"
    lie_digest = f"sha256:{LIAR.refused[0][1]}"
    assert work.run("rollback", "--config", f"image={name}", f"digest={lie_digest}").status != 0
    assert work.content("team/app:1") == "good"


# --- a layer is a function of its blob ----------------------------------------------------


TOPS = {
    "hard link to a lower layer's file": LayerBuilder().hardlink("hard", "content"),
    "whiteout": LayerBuilder().whiteout("gone"),
    "opaque directory": LayerBuilder().dir("d").opaque("d").file("d/high", "high"),
}


@pytest.fixture(scope="module", params=["directory", "standin"])
def over_others(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Tree, Tree]]]:
    """Of layers over one image and over another: what each repository has as the layer."""
    if os.geteuid() != 0:
        pytest.skip("needs root: whiteouts")
    found: dict[str, list[Tree]] = {top: [] for top in TOPS}
    blobs = {name: gzipped(top.tar()) for name, top in TOPS.items()}
    for text in ("one", "two"):
        lower = LayerBuilder().file("content", text).file("gone").dir("d").file(f"d/{text}", text)
        images = {
            f"team/top{number}:1": honest(name, gzipped(lower.tar()), top, author=name)
            for number, (name, top) in enumerate(blobs.items())
        }
        with (
            fresh_work(tmp_path_factory.mktemp(text)) as work,
            pytest.MonkeyPatch.context() as patch,
        ):
            root, repository = _backend(work, request.param, patch)
            assert work.registry
            for name, image in images.items():
                image.push(work.registry.store, name)
            work.wish(*(f"{{host}}/{name}" for name in images), cvmfs_repo=repository)
            work.run(check=True)
            wrong = list(Reader(root, work.host).problems(PREFIX, [*images.values()], images))
            assert wrong == [], "\n".join(wrong)
            for name, top in blobs.items():
                layer = root / ".layers" / top.digest[7:9] / top.digest[7:]
                listing = (layer / ".metadata/tree.mtree").read_text().splitlines()
                tree = dict(read(layer / "layerfs"))
                if request.param == "standin" and name == "opaque directory":
                    # CernVM-FS has no mark for that, which is spelled out by whiteouts.
                    listing = [line for line in listing if not line.endswith("tags=whiteout")]
                    tree = {path: node for path, node in tree.items() if node != "whiteout"}
                found[name].append({**tree, "its manifest": "\n".join(listing)})
    yield {name: (one, two) for name, (one, two) in found.items()}


@pytest.mark.parametrize("top", TOPS)
def test_a_published_layer_is_the_same_whatever_is_below_it_in_the_first_image_that_has_it(
    over_others: dict[str, tuple[Tree, Tree]], top: str
):
    one, two = over_others[top]
    assert one == two


def _backend(work: Work, backend: str, patch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """Configure it; where the repository is, and its name."""
    if backend == "directory":
        configure(work)
        return work.repository.path, REPOSITORY
    cvmfs = StandIn(work.path / "standin").make()
    for name, value in cvmfs.environment.items():
        patch.setenv(name, value)
    mounts = {"mounts": str(cvmfs.mounts), "server_config": str(cvmfs.server_config)}
    configure(work, repository={"backend": "cvmfs", **mounts})
    return cvmfs.mounts / cvmfs.name, cvmfs.name


# --- what DUCC left -----------------------------------------------------------------------


def test_a_layer_of_duccs_that_nobody_measured_is_in_no_store_and_no_other_image(work: Work):
    configure(work, products=["layers", "flat"])
    assert run(work, {"victim:1": VICTIM}).status == 0
    leave_as_ducc(work.repository.path)
    content = _layer(work, GOOD) / "layerfs/content"
    content.unlink()
    content.write_text("torn")
    configure(work)
    done = run(work, {"victim:1": VICTIM, "other:1": OTHER})
    assert done.status == 0, done.said
    assert _but_for_podman(problems(work, {"victim:1": VICTIM, "other:1": OTHER})) == []


def test_what_ducc_took_for_an_image_with_that_configuration_is_none_of_another(work: Work):
    configure(work)
    run(work, {"own:1": OWN, "victim:1": VICTIM})
    _poison(work)
    repository = work.repository.path
    leave_as_ducc(repository)
    _without_podman(repository)
    _forget(work, "victim:1")
    done = run(work, {"victim:1": VICTIM, "own:1": OWN, "liar:1": LIAR})
    assert outcome(work, done, "victim:1") == ("converted", "")
    found = problems(work, {"victim:1": VICTIM, "own:1": OWN, "liar:1": LIAR})
    wrong = [line for line in _but_for_podman(found) if "liar:1" not in line]
    assert wrong == [], "\n".join(wrong)
    assert work.content("team/liar:1") in (None, "good"), "its name leads to the victim's tree"


# --- what earlier versions left --------------------------------------------------------------


def test_a_poisoned_repository_is_found_and_mended_by_a_plain_run(work: Work):
    images = {"liar:1": LIAR, "own:1": OWN, "victim:1": VICTIM}
    run(work, {"own:1": OWN, "victim:1": VICTIM})
    _poison(work)
    assert work.content("team/victim:1") == "EVIL"
    done = run(work, images)
    assert outcome(work, done, "victim:1")[0] == "converted"
    assert any(
        line.startswith("pending ") and work.named("team/victim:1") in line
        for line in done.said.splitlines()
    ), "a run says what it found before it begins"
    assert_refused(work, done, "liar:1")
    assert work.content("team/liar:1") in (None, "good")
    found = problems(work, {"own:1": OWN, "victim:1": VICTIM})
    # A name that is refused may stay, on the victim's tree, until it leaves the wish list.
    wrong = [line for line in found if not line.startswith("team/liar:1 is visible")]
    assert wrong == [], "\n".join(wrong)
    again = run(work, images)
    assert outcome(work, again, "victim:1") == ("up to date", "")
    assert_refused(work, again, "liar:1")
    assert run(work, {"own:1": OWN, "victim:1": VICTIM}).counts == (0, 2, 0, 0)


def test_what_was_poisoned_is_mended_though_the_liar_is_not_wished_for_any_more(work: Work):
    run(work, {"own:1": OWN, "victim:1": VICTIM})
    _poison(work)
    done = run(work, {"own:1": OWN, "victim:1": VICTIM})
    assert done.status == 0, done.said
    assert work.content("team/victim:1") == "good"
    assert work.content("team/liar:1") in (None, "good")


def _but_for_podman(lines: list[str]) -> list[str]:
    """Images that are taken over from DUCC may be none of podman's: nobody measured them."""
    return [line for line in lines if not line.startswith("podman knows 0 images as ")]


def _poison(work: Work) -> None:
    names = [work.named(f"{PREFIX}{name}") for name in ("victim:1", "liar:1")]
    poison(work.repository.path, (names[0], VICTIM), (names[1], LIAR))
    assert read(work.repository.path / names[0])["content"] == "file EVIL"


def _layer(work: Work, blob: Blob) -> Path:
    return work.repository.path / ".layers" / blob.digest[7:9] / blob.digest[7:]


def _without_podman(repository: Path) -> None:
    for path in sorted((repository / "podmanStore").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (repository / "podmanStore").rmdir()


def _forget(work: Work, name: str) -> None:
    """Have an image be none that is published; its layers and its flat tree stay."""
    path = work.named(f"{PREFIX}{name}")
    (work.repository.path / path).unlink()
    for file in (work.repository.path / ".metadata" / path).iterdir():
        file.unlink()
    (work.repository.path / ".metadata" / path).rmdir()
