"""What holds after each round, whatever happened in it: each function says what does not."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from chaos.world import World
from support.orphans import unreachable
from support.processes import who_works_in
from support.runs import days_later

PATIENCE_SECONDS = 60.0


def nobody_is_left(world: World) -> list[str]:
    """No process works for the round any more, a moment after it."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while (found := who_works_in(world.base)) and time.monotonic() < ends:
        time.sleep(0.05)
    return [f"a process is left: {line}" for line in found]


def nothing_is_mounted(world: World) -> list[str]:
    """There are no mounts below the world's directory but its own."""
    own = {str(disk.path) for disk in world.place.disks}
    mounts = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [
        f"a mount is left: {mount}"
        for mount in mounts
        if Path(mount).is_relative_to(world.base) and mount not in own
    ]


def all_is_whole(world: World, before: Mapping[str, str]) -> list[str]:
    """What readers see is whole, to the last byte, and all is there that was."""
    found = []
    visible = world.visible()
    for name, text in visible.items():
        if text not in world.said.get(name, ()):
            found.append(f"{name} shows {text!r}")
    found += [f"{name} is not visible any more" for name in before if name not in visible]
    return found + damage(world)


def damage(world: World) -> list[str]:
    """What is wrong with the images that are published, their content included."""
    repository = world.place.open()
    whole = [name for name in repository.names() if repository.record(name)]
    return [line for name in whole for line in repository.verify(name)]


def nothing_is_damaged(world: World) -> list[str]:
    """The same as an operator asks for it."""
    run = world.run("verify", "--config", "content=true")
    return [f"verify ends with {run.status}: {run.said}"] if run.status else []


def a_clean_run_converges(world: World) -> list[str]:
    """All that can be had is published, each layer fetched once; the next run does nothing."""
    before, whole = world.published_layers(), world.visible()
    run = world.run()
    found = []
    lost = {world.work.named(name) for name in world.lost()}
    failed = {name for name, (what, _) in run.outcomes.items() if what in ("failed", "held")}
    if failed - lost or (run.status and not failed):
        found.append(f"a clean run ends with {run.status}: {run.said}")
    visible = world.visible()
    for name, text in world.expected().items():
        if visible.get(name) != text:
            found.append(f"{name} shows {visible.get(name)!r} after a clean run, not {text!r}")
        elif whole.get(name) == text and world.work.named(name) in converted(run.outcomes):
            found.append(f"{name} was visible, and was converted again: {run.said}")
    for digest, times in Counter(run.blobs()).items():
        if digest in world.layers and (times > 1 or digest in before):
            found.append(f"{digest} was fetched {times} times in a clean run: {run.said}")
    again = world.run()
    if converted(again.outcomes) or again.blobs() or (again.status and not lost):
        found.append(f"a second clean run had something to do: {again.said}")
    return found


def converted(outcomes: Mapping[str, tuple[str, str]]) -> set[str]:
    return {name for name, (what, _) in outcomes.items() if what == "converted"}


def nothing_is_fetched_again(world: World, layers: set[str], asked: int) -> list[str]:
    """What was published when the round began was not asked for in it."""
    requests = map(str, world.registry.requests[asked:])
    again = Counter(
        match[1] for match in map(re.compile(r"GET .*/blobs/(.*)").match, requests) if match
    )
    return [
        f"{digest} is published, and was fetched {again[digest]} times"
        for digest in sorted(layers & set(again))
    ]


def nothing_is_left(world: World) -> list[str]:
    """Nothing that is staged or half done is there any more."""
    results = world.work.path / "results"
    patterns = ("blobs/*", "*/partial/*", "*/layers/*", "*/flat/*")
    found = [str(path) for pattern in patterns for path in results.glob(pattern)]
    return [f"is left: {path}" for path in [*found, *world.place.problems()]]


def garbage_can_go(world: World) -> list[str]:
    """Two months later nothing is in the repository that no image has."""
    run = days_later(world.work, 60).run("gc")
    if run.status:
        return [f"gc ends with {run.status}: {run.said}"]
    if world.place.cvmfs:
        return [f"after gc: {line}" for line in world.place.problems()]
    return [f"nothing leads to {path} any more" for path in unreachable(world.place.path)]
