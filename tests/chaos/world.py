"""A registry, a wish list and a repository, and what ought to be published of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from chaos.places import Place, place
from support.faulty_registry import FaultyRegistry
from support.images import LayerBuilder
from support.readers import twice
from support.runs import Run, Work, fresh_work
from support.samples import AMD64, slow_layer

APPS = tuple(f"team/app{number}" for number in range(6))
GLOB = "team/nightly"
BASES = 3
"""How many layers there are that images share."""


@dataclass
class World:
    """All that faults happen to.

    ``tags`` has what each tag of the registry stands for now, ``said`` all that each ever stood
    for, as images' texts; ``wished`` are the wishes.  In a run that is started no file may be
    larger than ``limit``, if there is one, and the clock is ``days`` late.
    """

    base: Path
    work: Work
    place: Place
    chance: random.Random
    tags: dict[str, str] = field(default_factory=dict)
    said: dict[str, set[str]] = field(default_factory=dict)
    wished: set[str] = field(default_factory=lambda: {f"{GLOB}:*"})
    layers: set[str] = field(default_factory=set)
    limit: int = 0
    days: float = 0.0
    _made: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def registry(self) -> FaultyRegistry:
        """The registry, which breaks as it is told to."""
        assert isinstance(self.work.registry, FaultyRegistry)
        return self.work.registry

    # --- what becomes of the registry and of the wish list

    def push(self, name: str) -> None:
        """Push a new image, or move a tag: one of the shared layers, one of its own, a text."""
        repository, _, tag = name.partition(":")
        with self._lock:
            self._made += 1
            text = f"{name} {self._made}"
            shared = LayerBuilder().dir("etc").file("etc/base", f"base {self._made % BASES}" * 100)
            own = slow_layer(f"own-{self._made}", self._made % 4 * 60 + 1)
            image = twice(text, shared.layer(), own)
            # By the time that somebody may ask for it, it is known that it says this.
            self.said.setdefault(name, set()).add(text)
            self.layers |= {str(layer.digest) for layer in image.layers}
            # Past the registry's faults, of which those who push are not to know.
            store = self.registry.store
            for content in image.blobs().values():
                store.put_blob(content)
            store.put_manifest(repository, image.media_type, image.manifest_bytes, tag)
            self.tags[name] = text

    def delete(self, name: str) -> None:
        """Delete a tag in the registry, if it is there."""
        repository, _, tag = name.partition(":")
        with self._lock:
            self.registry.store.delete_manifest(repository, tag)
            self.tags.pop(name, None)

    def wish(self) -> None:
        """Write the wish list."""
        wishes = (f"{{host}}/{wish}" for wish in sorted(self.wished))
        self.work.wish(*wishes, cvmfs_repo=self.place.name)

    def expected(self) -> dict[str, str]:
        """What names have to lead to when all has settled."""
        return {
            name: text
            for name, text in self.tags.items()
            if name in self.wished or name.startswith(f"{GLOB}:")
        }

    def lost(self) -> set[str]:
        """Wishes whose tags are gone from the registry."""
        return {wish for wish in self.wished if "*" not in wish and wish not in self.tags}

    # --- what is there

    def visible(self) -> dict[str, str]:
        """What readers find behind each name."""
        found = {}
        for link in sorted(self.place.path.glob("*/team/[!.]*")):
            name = f"team/{link.name}"
            try:
                texts = {(link / file).read_text() for file in ("content", "d/content")}
            except OSError as error:
                texts = {f"unreadable: {error}"}
            found[name] = texts.pop() if len(texts) == 1 else f"torn: {sorted(texts)}"
        return found

    def published_layers(self) -> set[str]:
        """Digests of the layers of all images that are published."""
        repository = self.place.open()
        with repository.reading():
            names = list(repository.names())
        records = filter(None, map(repository.record, names))
        return {str(layer) for record in records for layer in record.layers}

    # --- runs

    def run(self, *options: str) -> Run:
        """A run to the end; where a killed one has left Snakemake's lock, that is taken away."""
        run = self.work.run(*options)
        if "--unlock" in run.stderr:
            self.work.run("--unlock", check=True)
            run = self.work.run(*options)
        return run

    @contextmanager
    def started(self, directory: str = "work") -> Iterator[subprocess.Popen[bytes]]:
        """A run that is under way below ``base``; at the end of the block it is gone."""
        work = replace(self.work, path=self.base / directory)
        environment = work.env()
        if self.days:
            later = str(Path(__file__).parents[1] / "support/later")
            path = os.pathsep.join([later, *sys.path])
            environment |= {"PYTHONPATH": path, "TESTS_DAYS_LATER": str(self.days)}
        command: Sequence[str] = work.command("-p")
        if self.limit:
            command = ["prlimit", f"--fsize={self.limit}", *command]
        with (self.base / f"{directory}.out").open("ab") as out:
            process = subprocess.Popen(
                command,
                cwd=work.path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
                process.wait()


@contextmanager
def world(base: Path, backend: str, chance: random.Random) -> Iterator[World]:
    """A new world below ``base``."""
    with (
        place(backend, base, apart=chance.random() < 0.5) as made,
        fresh_work(base, FaultyRegistry) as work,
    ):
        work.configure(
            platforms=[str(AMD64)],
            products=["layers", "flat", "podman"],
            repository={**made.configuration(), "lock_seconds": 10},
            registries={work.host: {"limits": {"timeout_seconds": 3}}},
            watch={"interval": 5, "retry": 1},
        )
        new = World(base, work, made, chance)
        for name in APPS:
            new.push(f"{name}:1")
            new.wished.add(f"{name}:1")
        new.push(f"{GLOB}:1")
        new.wish()
        yield new
