"""What breaks while something is converted; each fault begins, and is over at its end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from chaos.places import Disk
from chaos.world import APPS, GLOB, World
from support.faulty_registry import RANDOM_FAULTS
from support.watching import Webhook, listening, storm, watching

Process = psutil.Process


class Fault(ABC):
    """Something that goes wrong for a time.

    ``early`` ones begin before the run does, others at some moment of it.
    """

    early = False

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = random.Random(world.chance.random())
        self.made = True

    @property
    @abstractmethod
    def kind(self) -> str:
        """What is counted, in words."""

    @abstractmethod
    def begin(self, run: Process | None) -> None:
        """Let it happen; ``run`` is the main process of the run, unless it is early or over."""

    def end(self) -> None:  # noqa: B027, most faults are over by themselves
        """Have everything as it was."""


class Kill(Fault):
    """A process of the run is killed, or told to stop."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._signal = self.chance.choice([signal.SIGKILL, signal.SIGTERM])
        self._who = self.chance.choice(["main process", "job", "server", "any", "all"])
        if world.place.cvmfs and self.chance.random() < 0.3:
            self._who = "cvmfs_server"

    @property
    def kind(self) -> str:
        return f"{self._signal.name} to {self._who}"

    def begin(self, run: Process | None) -> None:
        victims = self._wait(run) if run else []
        self.made = bool(victims)
        for process in victims:
            with suppress(psutil.Error):
                process.send_signal(self._signal)

    def _wait(self, run: Process) -> list[Process]:
        """Who is meant, as soon as there is one."""
        while run.is_running() and run.status() != psutil.STATUS_ZOMBIE:
            with suppress(psutil.Error):
                if victims := self._victims(run):
                    return victims
            time.sleep(0.002)
        return []

    def _victims(self, run: Process) -> list[Process]:
        below = run.children(recursive=True)
        if self._who == "main process":
            return [run]
        if self._who == "all":
            return [run, *below]
        if self._who == "any":
            return [self.chance.choice([run, *below])]
        wanted: Callable[[str], bool] = {
            "job": lambda line: "scripts/" in line,
            "server": lambda line: "duccmake.jobs.server" in line,
            "cvmfs_server": lambda line: "cvmfs_" in line and "scripts/" not in line,
        }[self._who]
        found = [process for process in below if wanted(" ".join(process.cmdline()))]
        return [self.chance.choice(found)] if found else []


class Kills(Kill):
    """Jobs die one after the other."""

    @property
    def kind(self) -> str:
        return f"{self._signal.name} to one job after the other"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._who = "job"

    def begin(self, run: Process | None) -> None:
        made = False
        for _ in range(self.chance.randint(2, 6)):
            super().begin(run)
            made |= self.made
            time.sleep(self.chance.uniform(0, 0.3))
        self.made = made


class Answers(Fault):
    """The registry gives wrong answers, of all kinds."""

    early = True

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._rate = self.chance.choice([0.1, 0.3, 0.6])

    @property
    def kind(self) -> str:
        return f"a registry that breaks answers in {len(RANDOM_FAULTS)} ways"

    def begin(self, run: Process | None) -> None:
        self.world.registry.break_at_random(self._rate, self.chance.randrange(1 << 30))

    def end(self) -> None:
        self.world.registry.forgive()


class Deserted(Fault):
    """Nobody answers at the registry's address."""

    kind = "a registry that is down"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._stack = ExitStack()
        self._asked = world.registry.requests

    def begin(self, run: Process | None) -> None:
        self._asked = self.world.registry.requests
        self._stack.enter_context(self.world.work.deserted())

    def end(self) -> None:
        self._stack.close()
        # It is another that comes back, and what was asked before counts as well.
        self._asked += self.world.registry.requests
        self.world.registry.requests = self._asked


class OnDisk(Fault):
    """A fault of a file system of its own."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.disk: Disk = self.chance.choice(world.place.disks)

    def end(self) -> None:
        self.disk.whole()


class Full(OnDisk):
    """No space is left, or little."""

    @property
    def kind(self) -> str:
        return f"no space left ({self.disk.name})"

    def begin(self, run: Process | None) -> None:
        self.disk.full(self.chance.choice([4096, 65536, 1 << 20]))


class OutOfInodes(OnDisk):
    """No more files can be made, or few."""

    @property
    def kind(self) -> str:
        return f"no inodes left ({self.disk.name})"

    def begin(self, run: Process | None) -> None:
        self.disk.out_of_inodes(self.chance.choice([1, 20, 200]))


class ReadOnly(OnDisk):
    """It is mounted anew, read-only, as kernels do after an error."""

    @property
    def kind(self) -> str:
        return f"read-only remount ({self.disk.name})"

    def begin(self, run: Process | None) -> None:
        # Not while a file is being written.
        ends = time.monotonic() + 2
        while not (made := self.disk.read_only()) and time.monotonic() < ends:
            time.sleep(0.001)
        self.made = made


class SmallFiles(Fault):
    """No file may get large, as by a quota or ``ulimit -f``."""

    kind = "files beyond their largest size"
    early = True

    def begin(self, run: Process | None) -> None:
        self.world.limit = self.chance.choice([16384, 65536, 200_000])

    def end(self) -> None:
        self.world.limit = 0


class Clock(Fault):
    """The clock is wrong in the run: days early, or late."""

    kind = "a clock that is wrong"
    early = True

    def begin(self, run: Process | None) -> None:
        # In CernVM-FS nobody can publish after a revision of a time to come until that is there.
        ahead = [] if self.world.place.cvmfs else [0.04, 1, 40]
        self.world.days = self.chance.choice([-3650, -1, -0.04, *ahead])

    def end(self) -> None:
        self.world.days = 0.0


class Times(Fault):
    """All files of the working directory get other times, as after a clock that was set."""

    kind = "file times set back or forward"

    def begin(self, run: Process | None) -> None:
        moved = time.time() + 86400 * self.chance.choice([-3650, -1, 1, 365])
        for name in ("results", ".snakemake", "logs"):
            for directory, below, names in os.walk(self.world.work.path / name):
                # The times of what images have are part of them.
                below[:] = set(below) - {"layer", "image", "partial"}
                for path in (directory, *(f"{directory}/{each}" for each in names)):
                    with suppress(OSError):
                        os.utime(path, (moved, moved), follow_symlinks=False)


class Transaction(Fault):
    """An operator has a transaction open, and publishes or aborts it."""

    kind = "an operator's transaction"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        assert world.place.cvmfs
        self._cvmfs = world.place.cvmfs
        self._file = world.place.path / f"of-an-operator-{self.chance.randrange(1 << 30)}"

    def begin(self, run: Process | None) -> None:
        try:
            self._cvmfs.server("transaction", self._cvmfs.name)
        except AssertionError:  # ours is open, which operators respect as well
            self.made = False
        else:
            self._file.write_text("theirs")

    def end(self) -> None:
        if not self.made:
            return
        if self.chance.random() < 0.5:
            self._cvmfs.server("publish", self._cvmfs.name)
            assert self._file.read_text() == "theirs", "an operator's transaction was spoiled"
        else:
            self._cvmfs.server("abort", "-f", self._cvmfs.name)


class Another(Fault):
    """A second Snakemake: in the same working directory, or in one of its own."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._stack = ExitStack()
        self._directory = self.chance.choice(["work", "other"])
        self._process: subprocess.Popen[bytes] | None = None
        self.early = self.chance.random() < 0.5

    @property
    def kind(self) -> str:
        return {
            "work": "a second Snakemake in the same directory",
            "other": "a second Snakemake on the same repository",
        }[self._directory]

    def begin(self, run: Process | None) -> None:
        other = self.world.base / self._directory
        if self._directory != "work":
            (other / "config").mkdir(parents=True, exist_ok=True)
            for name in ("config.yaml", "recipe.yaml"):
                content = (self.world.work.path / "config" / name).read_bytes()
                (other / "config" / name).write_bytes(content)
        self._process = self._stack.enter_context(self.world.started(self._directory))

    def end(self) -> None:
        with self._stack:
            if self._process:
                self._process.wait(PATIENCE_SECONDS)


PATIENCE_SECONDS = 240.0
"""How long a run may take on a machine that is busy until it is said to hang."""


class Storm(Fault):
    """The watcher and the webhook run beside, and are told of pushes, some of which happened."""

    kind = "a storm of webhooks"
    early = True

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._stack = ExitStack()

    def begin(self, run: Process | None) -> None:
        webhook: Webhook = self._stack.enter_context(listening(self.world.work))
        watch = self._stack.enter_context(watching(self.world.work))
        moved = [app for app in APPS if self.chance.random() < 0.3]

        def move(name: str) -> None:
            if name in moved:
                self.world.push(f"{name}:1")

        storm(webhook, self.world.work.host, APPS, 60, move)
        self._stack.callback(watch.stop)

    def end(self) -> None:
        self._stack.close()


class Edits(Fault):
    """Tags move, leave and come back, and the wish list is edited, all while it is converted."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.early = self.chance.random() < 0.5
        names = sorted({*world.tags, *(f"{app}:1" for app in APPS)})
        self._name = self.chance.choice(names)
        self._what = self.chance.choice(["moved", "moved", "deleted", "new", "unwished", "broken"])

    @property
    def kind(self) -> str:
        return {
            "moved": "a tag that moves",
            "deleted": "a tag that is deleted",
            "new": "a new tag that a glob matches",
            "unwished": "a wish that leaves or comes",
            "broken": "a wish list that cannot be read",
        }[self._what]

    def begin(self, run: Process | None) -> None:
        world = self.world
        if self._what == "moved" or (self._what == "deleted" and self._name not in world.tags):
            world.push(self._name)
        elif self._what == "deleted":
            world.delete(self._name)
        elif self._what == "new":
            world.push(f"{GLOB}:{self.chance.randrange(1000)}")
        elif self._what == "unwished":
            world.wished ^= {f"{self.chance.choice(APPS)}:1"}
            with suppress(OSError):  # the disk may be full, or read-only
                world.wish()
        else:
            recipe = world.work.path / "config/recipe.yaml"
            with suppress(OSError):
                recipe.write_text("version: 1\ninput: [unfinished")

    def end(self) -> None:
        if self._what == "broken":
            with suppress(OSError):
                self.world.wish()


def chosen(world: World) -> Iterator[Fault]:
    """Some faults, not two of which are in each other's way."""
    chance = world.chance
    kinds: list[type[Fault]] = [Kill, Kill, Kills, Answers, Answers, Deserted, SmallFiles]
    kinds += [Clock, Times, Another, Another, Storm]
    if world.place.disks:
        kinds += [Full, Full, OutOfInodes, ReadOnly]
    if world.place.cvmfs:
        kinds += [Transaction, Transaction]
    for _ in range(chance.randint(1, 3)):
        yield Edits(world)
    taken: set[type[Fault]] = set()
    for kind in chance.sample(kinds, chance.randint(1, 3)):
        # One file system has one set of options, and a run one environment.
        group = next((base for base in kind.__mro__ if base in GROUPS), kind)
        if group not in taken:
            taken.add(group)
            yield kind(world)


GROUPS = {OnDisk, Kill}

MOMENTS = {
    "it begins": ".snakemake/locks/*",
    "there is a plan": "results/plans/*",
    "a layer is fetched": "results/blobs/*",
    "a layer is unpacked": "results/*/partial/*/*",
    "a layer is staged": "results/*/layers/*/layer",
    "a tree is staged": "results/*/flat/*",
    "a receipt is written": "results/*/published/*/*/*/*.json",
    "a commit is made": "",
}
"""Moments of a run, by files that were not there before."""


def files(world: World, moment: str) -> frozenset[Path]:
    """The files by which a moment is known."""
    if not MOMENTS[moment]:
        return frozenset([world.place.journal] if world.place.journal.exists() else [])
    with suppress(OSError):
        return frozenset(world.work.path.glob(MOMENTS[moment]))
    return frozenset()
