"""No image touches another: honest ones and liars share blobs, diff_ids and configurations.

Sets of images (`shared_images`) enter a wish list over several runs, in any order; after
each run every honest image is wholly itself wherever it is published, and nothing is
there of those that do not say what is so.  ``DUCCMAKE_EXAMPLES`` sets how many sets.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from duccmake.repository.cvmfs.settings import ServerSettings
from support import podman_client
from support.cvmfs_repositories import repository_for
from support.podman_client import podman
from support.published_images import Reader, compared
from support.runs import REPOSITORY, Run, Work, fresh_work
from support.shared_images import KINDS, STEPS, Spec, Tree, World, applied, world

EXAMPLES = int(os.environ.get("DUCCMAKE_EXAMPLES", len(KINDS)))
TOGETHER = 24
"""Sets that share a wish list, and nothing else."""

_CORES = "8"
"""More than most machines have: others need not wait while what is damaged is tried again."""

CVMFS = [len(KINDS) + number for number in range(1, len(KINDS), 4)]
PODMAN = [27, 7661]
"""Two in which a lie comes first about the lowest layer of the image that podman pulls."""


# --- the life of a set of images ------------------------------------------------


UNLISTED = ("up to date", "")
"""Of many images a run counts those that are up to date, and lists all others."""


@dataclass
class Story:
    """A set of images, as it stands in the wish list; ``problems`` are what was wrong so far."""

    world: World
    current: dict[str, Spec] = field(default_factory=dict)
    visible: dict[str, Spec] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def step(self, number: int, work: Work) -> None:
        """Push what comes in that run."""
        assert work.registry
        for name, spec in self.world.steps[number].items():
            spec.push(work.registry.store, name)
            self.current[name] = spec

    def look(self, run: Run, reader: Reader, host: str, when: str) -> None:
        """Compare what a run said and left with what it should have."""
        found = [
            problem
            for name, spec in self.current.items()
            for problem in self._outcome(name, spec, *run.outcomes.get(f"{host}/{name}", UNLISTED))
        ]
        found += reader.problems(self.world.prefix, self.world.specs, self.visible)
        self.problems += [f"{when}: {problem}" for problem in found]

    def _outcome(self, name: str, spec: Spec, outcome: str, reason: str) -> Iterator[str]:
        title = f"{name} ({spec.kind}) is {outcome}, {reason!r}"
        if spec.whatever and outcome in ("converted", "up to date"):
            self.visible[name] = spec
        elif spec.honest:
            wanted = "up to date" if self.visible.get(name) == spec else "converted"
            self.visible[name] = spec
            if outcome != wanted:
                yield f"{title}, wanted {wanted}"
        elif outcome != "failed":
            yield f"{title}, wanted failed with {' and '.join(spec.refused[0])}"
        elif not any(all(_names(reason, word) for word in words) for words in spec.refused):
            yield f"{title}, which does not name {' and '.join(spec.refused[0])}"

    def drop_liars(self) -> None:
        """Take what is refused from the wish list."""
        self.current = {name: spec for name, spec in self.current.items() if spec.honest}

    @property
    def fails(self) -> bool:
        """Whether a run with this set fails for certain."""
        return any(not spec.honest and not spec.whatever for spec in self.current.values())

    @property
    def may_fail(self) -> bool:
        """Whether a run with this set may fail."""
        return any(not spec.honest for spec in self.current.values())


def _names(reason: str, word: str) -> bool:
    """Whether a reason names a value; of a digest, the digits that people compare are enough."""
    _, colon, hexadecimal = word.partition(":")
    if colon:
        return hexadecimal[:12] in reason
    return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", reason))


@dataclass
class Batch:
    """Sets of images that are published into one repository; ``problems`` are of no set."""

    stories: list[Story]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Batch:
        return cls([Story(world(number)) for number in numbers])

    def live(self, work: Work, root: Path, repository: str = REPOSITORY) -> None:
        """All runs, into the repository in ``root``; the last one without what is refused."""
        for number in range(STEPS):
            for story in self.stories:
                story.step(number, work)
            self._run(work, root, repository, f"run {number + 1}")
        for story in self.stories:
            story.drop_liars()
        self._run(work, root, repository, "the last run")

    def _run(self, work: Work, root: Path, repository: str, when: str) -> None:
        names = [name for story in self.stories for name in story.current]
        work.wish(*(f"{{host}}/{name}" for name in names), cvmfs_repo=repository)
        run = work.run("--cores", _CORES)
        reader = Reader(root, work.host)
        for story in self.stories:
            story.look(run, reader, work.host, when)
        fails = any(story.fails for story in self.stories)
        may_fail = any(story.may_fail for story in self.stories)
        if run.status == 0 if fails else run.status != 0 and not may_fail:
            self.problems.append(f"{when}: the exit status is {run.status}: {run.said[-2000:]}")
        told = [run.outcomes.get(f"{work.host}/{name}", UNLISTED)[0] for name in names]
        kinds = ("converted", "up to date", "failed", "skipped")
        if run.counts != tuple(map(told.count, kinds)):
            self.problems.append(f"{when}: the summary counts {run.counts} of {told}")
        strange = {name for name in run.outcomes if name.removeprefix(f"{work.host}/") not in names}
        strange |= reader.names() - {name for story in self.stories for name in story.visible}
        if strange:
            self.problems.append(f"{when}: there is {', '.join(sorted(strange))}")


def _of_worlds(numbers: Sequence[int]) -> pytest.MarkDecorator:
    ids = [f"{number}-{world(number).kind}" for number in numbers]
    return pytest.mark.parametrize("number", numbers, ids=ids)


# --- a plain directory -----------------------------------------------------------


class Batches:
    """Those that were asked for so far."""

    def __init__(self, base: Path) -> None:
        self._base = base

    @functools.cache  # noqa: B019 - there is one, for as long as the module's tests run
    def at(self, first: int) -> Batch:
        """The batch that begins with that set of images, after all its runs."""
        batch = Batch.of(range(first, min(first + TOGETHER, EXAMPLES)))
        with fresh_work(self._base / str(first)) as work:
            work.configure(platforms=["linux/amd64"])
            batch.live(work, work.repository.path)
        return batch


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Batches:
    return Batches(tmp_path_factory.mktemp("shared"))


@_of_worlds(range(EXAMPLES))
def test_each_image_is_wholly_itself_and_a_liar_alone_is_refused(batches: Batches, number: int):
    story = batches.at(number - number % TOGETHER).stories[number % TOGETHER]
    assert story.problems == [], "\n".join(story.problems)


@pytest.mark.parametrize("first", range(0, EXAMPLES, TOGETHER))
def test_a_run_fails_if_an_image_does_and_publishes_no_other_names(batches: Batches, first: int):
    assert batches.at(first).problems == []


# --- CernVM-FS ---------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("standin", id="standin"),
        pytest.param("real", marks=pytest.mark.cvmfs, id="real"),
    ],
)
def in_cvmfs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Batch]:
    if os.geteuid() != 0:
        pytest.skip("cvmfs_server needs root")
    base, batch = tmp_path_factory.mktemp("cvmfs"), Batch.of(CVMFS)
    with pytest.MonkeyPatch.context() as patch, fresh_work(base) as work:
        cvmfs = repository_for((request.param,), base, patch)
        work.configure(
            platforms=["linux/amd64"],
            repository={
                "backend": "cvmfs",
                "mounts": str(cvmfs.mounts),
                "server_config": str(cvmfs.server_config),
            },
        )
        # An overlay lies over the mount of who publishes, and takes whiteouts for its own.
        published = ServerSettings.read(cvmfs.name, cvmfs.server_config).published
        batch.live(work, published, cvmfs.name)
        if said := cvmfs.problems():
            batch.problems.append(said)
        yield batch


@_of_worlds(CVMFS)
def test_so_it_is_in_cvmfs(in_cvmfs: Batch, number: int):
    story = in_cvmfs.stories[CVMFS.index(number)]
    assert story.problems == [], "\n".join(story.problems)


def test_a_run_into_cvmfs_fails_if_an_image_does_and_publishes_no_other_names(in_cvmfs: Batch):
    assert in_cvmfs.problems == []


# --- podman itself, and thin images -------------------------------------------------


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, list[str]]]:
    """What is wrong with the images of podman's store, one that podman pulls, and thin ones."""
    podman_client.need_podman()
    batch = Batch.of(PODMAN)
    with fresh_work(tmp_path_factory.mktemp("podman")) as work:
        work.configure(platforms=["linux/amd64"], thin={"push": "auto"})
        batch.live(work, work.repository.path)
        with podman(work.repository.path / "podmanStore") as client:
            yield {
                story.world.number: [*_by_podman(client, work, story), *_thin(work, story)]
                for story in batch.stories
            }


def _by_podman(client: podman_client.Podman, work: Work, story: Story) -> Iterator[str]:
    assert work.registry
    pulled = f"{story.world.prefix}pulled:1"
    story.world.unwished.push(work.registry.store, pulled)
    client("pull", "--quiet", "--tls-verify=false", f"{work.host}/{pulled}")
    for name, spec in {**story.visible, pulled: story.world.unwished}.items():
        yield from compared(name, spec.tree, _exported(client, f"{work.host}/{name}"))


def _exported(client: podman_client.Podman, image: str) -> Tree:
    """What a container of the image has."""
    container = client("create", "--network", "none", "--pull=never", image, "/none")
    archive = client.base / "exported.tar"
    client("export", "--output", str(archive), container)
    client("rm", container)
    return applied([archive.read_bytes()])


def _thin(work: Work, story: Story) -> Iterator[str]:
    assert work.registry
    names = {name for step in story.world.steps for name in step}
    for name in sorted(names):
        repository, _, tag = name.partition(":")
        pushed = tag in work.registry.store.tags(f"{repository}_thin")
        if pushed != (name in story.visible):
            yield f"there is {'a' if pushed else 'no'} thin image of {name}"


@_of_worlds(PODMAN)
def test_podman_shows_images_as_they_are_and_no_liar_gets_a_thin_image(
    seen: dict[int, list[str]], number: int
):
    assert seen[number] == [], "\n".join(seen[number])
