"""Throughput of a first fill with 1, 2 and 4 workers of a Slurm cluster, and without one.

All nodes are on this machine, each with one core of its own as far as there are so many: what
the processor bounds does not get faster beyond that.  So there are two kinds of images: such as
take work, and such as take time at their registry.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rows import Row, leave

from duccmake.demo.images import Image
from support.faulty_registry import Answer, FaultyHandler, FaultyRegistry
from support.runs import CHECKOUT, Work, fresh_work
from support.samples import AMD64, slow_layer
from support.slurm import Cluster, cluster

IMAGES = int(os.environ.get("DUCCMAKE_BENCHMARK_IMAGES", "12"))
WORKERS = (1, 2, 4)
SECONDS = 10.0
"""So long a registry keeps a job waiting that is to wait."""

FILES = {"that take work": 5000, "that take time": 10}
"""In a layer, 4 kB each."""


def slowly(handler: FaultyHandler, answer: Answer) -> None:
    time.sleep(SECONDS)
    handler.send(answer)


@pytest.mark.parametrize("kind", ["that take work", "that take time"])
def test_fill_with_more_and_more_workers(kind: str, tmp_path: Path) -> None:
    print(f"\nA first fill of {IMAGES} images {kind}; {os.cpu_count()} cores")
    print(f"  {'':28}{'wall s':>10}{'images/s':>10}{'cores busy':>12}")
    waits = kind == "that take time"

    def measured(name: str, base: Path, run: Callable[[Work], None]) -> None:
        with fresh_work(base, FaultyRegistry) as work:
            assert isinstance(work.registry, FaultyRegistry)
            for number in range(IMAGES):
                layer = slow_layer(f"{number}", FILES[kind])
                work.push(f"team/app{number}:1", Image((layer,), {}, platform=AMD64))
                if waits:
                    work.registry.break_next(f"^GET .*{layer.digest.hex}", slowly)
            work.wish(*(f"{{host}}/team/app{number}:1" for number in range(IMAGES)))
            limits = {"limits": {"connections": 64}}
            work.configure(platforms=[str(AMD64)], registries={work.host: limits})
            psutil.cpu_percent()
            began = time.perf_counter()
            run(work)
            took = time.perf_counter() - began
            busy = psutil.cpu_percent() / 100 * (os.cpu_count() or 1)
            leave(Row(f"A first fill of {IMAGES} images {kind}: {name}", "s", took))
            print(f"  {name:28}{took:10.1f}{IMAGES / took:10.2f}{busy:12.2f}", flush=True)

    measured("this machine, --cores 2", tmp_path / "local", _done)
    for workers in WORKERS:
        with cluster(tmp_path / f"slurm{workers}", nodes=workers, cpus=1) as running:
            away = functools.partial(_done_by, running)
            measured(f"cluster, workers: {workers}", tmp_path / f"work{workers}", away)


def _done_by(running: Cluster, work: Work) -> None:
    work.environment = running.environment
    profile = ("--workflow-profile", f"{CHECKOUT}/profiles/slurm")
    # A job for each layer; those of a group run one after the other, as a node has one core.
    _done(work, *profile, "--cores", "1", "--group-components", "small_layers=1", "flat_trees=20")


def _done(work: Work, *options: str) -> None:
    run = work.run(*options)
    assert run.counts == (IMAGES, 0, 0, 0), run.said
