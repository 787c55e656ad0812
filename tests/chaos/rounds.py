"""Rounds of chaos, and what came of them."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from chaos import invariants
from chaos.faults import MOMENTS, PATIENCE_SECONDS, Fault, chosen, files
from chaos.world import World, world
from support.readers import Readers

ROUNDS_A_WORLD = 8
MOST = 12
"""Lines about one loss: more say the same."""


@dataclass
class Tally:
    """How many rounds there were, what broke in them, and what was lost."""

    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)

    def table(self) -> str:
        """All of it, in lines."""
        width = max(map(len, self.faults), default=0)
        lines = [f"{self.rounds} rounds, {self.faults.total()} faults:"]
        lines += [f"  {kind:{width}}{count:6}" for kind, count in sorted(self.faults.items())]
        return "\n".join([*lines, f"{len(self.losses)} losses", *self.losses])


@dataclass
class Timed:
    """A fault, and when it comes: at a moment and so many seconds after, for so many."""

    fault: Fault
    moment: str
    after: float
    lasts: float

    def __str__(self) -> str:
        when = "before" if self.fault.early else f"{self.moment}, {self.after:.2f} s later"
        return f"{self.fault.kind} ({when})"

    def happen(self, world: World, run: psutil.Process, over: threading.Event) -> None:
        """Wait for the moment, let it happen, and keep it up for its time."""
        before = files(world, self.moment)
        while not over.is_set() and not files(world, self.moment) - before:
            over.wait(0.005)
        over.wait(self.after)
        if over.is_set():
            self.fault.made = False
            return
        try:
            self.fault.begin(run)
            over.wait(self.lasts)
        finally:
            self.fault.end()


def timed(world: World) -> Iterator[Timed]:
    """The faults of a round."""
    chance = world.chance
    for fault in chosen(world):
        after = chance.choice([0.0, chance.uniform(0, 0.1), chance.uniform(0, 1.5)])
        lasts = chance.choice([chance.uniform(0.1, 1), chance.uniform(1, 5), PATIENCE_SECONDS])
        yield Timed(fault, chance.choice(sorted(MOMENTS)), after, lasts)


def play(world: World, say: Callable[[str], object], tally: Tally) -> list[str]:
    """One round; what was lost in it."""
    begin = time.monotonic()
    plan = list(timed(world))
    say("; ".join(map(str, plan)))
    before, layers = world.visible(), world.published_layers()
    asked = len(world.registry.requests)
    readers = Readers(world.place.path)
    # In CernVM-FS whoever reads keeps others from publishing, which is a fault of another kind.
    real = world.place.cvmfs is not None and world.place.cvmfs.real
    with nullcontext() if real else readers.reading():
        losses = happen(world, plan)
    happened = time.monotonic()
    tally.faults.update(item.fault.kind for item in plan if item.fault.made)
    world.wish()
    losses += readers.torn
    losses += invariants.nobody_is_left(world)
    settled = time.monotonic()
    losses += invariants.all_is_whole(world, before)
    losses += invariants.a_clean_run_converges(world)
    losses += invariants.nothing_is_fetched_again(world, layers, asked)
    losses += invariants.nothing_is_left(world)
    losses += invariants.nothing_is_mounted(world)
    tally.rounds += 1
    took = happened - begin, settled - happened, time.monotonic() - settled
    word = "LOST" if losses else "ok"
    say("{}: {:.1f} s, {:.1f} s until nobody was left, {:.1f} s to check".format(word, *took))
    return losses


def happen(world: World, plan: list[Timed]) -> list[str]:
    """Run it while the faults come and go."""
    losses, over = [], threading.Event()
    with ExitStack() as stack:
        for item in plan:
            if item.fault.early:
                stack.callback(item.fault.end)
                item.fault.begin(None)
        run = stack.enter_context(world.started())
        process = psutil.Process(run.pid)
        later = [item for item in plan if not item.fault.early]
        with ThreadPoolExecutor(max(1, len(later))) as pool:
            happening = [pool.submit(item.happen, world, process, over) for item in later]
            try:
                run.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                losses.append("the run hangs")
            finally:
                over.set()
        for item, done in zip(later, happening, strict=True):
            if error := done.exception():
                losses.append(f"{item.fault.kind}: {error!r}")
    return losses


def _say(say: Callable[[str], object], where: str, text: str) -> None:
    say(f"{where}: {text}")


def campaign(
    backend: str,
    seed: int,
    *,
    base: Path,
    say: Callable[[str], object],
    enough: Callable[[Tally], bool],
    first_world: int = 0,
) -> Tally:
    """Rounds until it is ``enough``, in one world after the other; a world with a loss is kept."""
    tally, number = Tally(), first_world
    while not enough(tally):
        where = Path(tempfile.mkdtemp(prefix=f"world-{number}-", dir=base))
        with world(where, backend, random.Random(f"{seed}/{number}")) as current:
            losses: list[str] = []
            for turn in range(ROUNDS_A_WORLD):
                if losses or enough(tally):
                    break
                losses = play(current, partial(_say, say, f"{number}.{turn}"), tally)
            losses = losses or invariants.nothing_is_damaged(current)
            losses = losses or invariants.garbage_can_go(current)
            if losses:
                kept = where.with_name(f"{where.name}-kept")
                subprocess.run(["cp", "-a", where, kept], capture_output=True)
                again = f"SEED={seed} WORLD={number} BACKEND={backend}; kept in {kept}"
                tally.losses.append("\n".join([again, *losses[:MOST]]))
                say(tally.losses[-1])
        shutil.rmtree(where)
        number += 1
    return tally
