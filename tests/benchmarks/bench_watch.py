"""From a push to a registry until a reader sees the image: seconds, with their parts."""

from __future__ import annotations

import statistics
import time
from datetime import datetime
from pathlib import Path

import psutil
from rows import Row, leave

from duccmake.demo.images import Image
from support.images import Layer, LayerBuilder, push
from support.runs import Work
from support.samples import AMD64
from support.servers import docker_registry
from support.watching import events, eventually, listening, polls, watching

ROUNDS = 4
GOAL_SECONDS = 5.0
OTHERS = 5
"""So many images stand in the wish list beside the one that is pushed."""


def base() -> Layer:
    builder = LayerBuilder().dir("usr")
    for number in range(2000):
        builder.file(f"usr/file{number}", f"{number}" * 1000)
    return builder.layer()


def cpu_seconds(pid: int) -> float:
    """What a process and those that it waited for have used, which others' load does not change."""
    times = psutil.Process(pid).cpu_times()
    return float(sum(times[:4]))


def at(event: dict[str, str]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def parts(work: Work, began: float, pushed: float, seen: float) -> dict[str, float]:
    """Where the time went, by the event log; what is left is Snakemake between its jobs."""
    last = {
        event["action"]: at(event)
        for event in events(work)
        if at(event) >= int(began * 1000) / 1000
    }

    def took(name: str) -> float:
        return last[f"end_{name}"] - last[f"start_{name}"]

    found = {
        "notice": last["receive_notice"] - pushed,
        "start and resolve": last["start_ducc"] - last["receive_notice"],
        "fetch": took("layer_download"),
        "unpack": took("layer_conversion"),
        "flatten": took("flat_conversion"),
        "publish": took("publication"),
    }
    found["between jobs"] = seen - pushed - sum(found.values())
    found["in all"] = seen - pushed
    return found


def test_a_push_is_visible_within_seconds(tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    work.path.mkdir()
    work.wish("https://r.example.org/none:1")
    work.configure(platforms=[str(AMD64)])
    layers = (base(),)
    measured: list[dict[str, float]] = []
    with listening(work) as webhook:
        notify = {f"{webhook.url}/distribution": "none"}
        with docker_registry(tmp_path / "registry", notify=notify) as registry:
            other = Image(layers, {}, platform=AMD64)
            names = [f"team/other:{number}" for number in range(OTHERS)]
            for name in names:
                push(other, registry.host, *name.split(":"))
            push(other, registry.host, "team/app", "1")
            wishes = ["team/app:1", *names]
            work.wish(*(f"http://{registry.host}/{name}" for name in wishes))
            link = work.repository.path / registry.host / "team/app:1"
            with watching(work) as watch:
                eventually(lambda: len(polls(work)) == 1, "the first poll", watch)
                for number in range(ROUNDS):
                    before, used = len(polls(work)), cpu_seconds(watch.process.pid)
                    top = LayerBuilder().file("round", f"{number}").layer()
                    began = time.time()
                    push(Image((*layers, top), {}, platform=AMD64), registry.host, "team/app", "1")
                    pushed = time.time()
                    wanted = str(number)
                    while not (link / "round").exists() or (link / "round").read_text() != wanted:
                        time.sleep(0.002)
                    seen = time.time()
                    eventually(lambda: len(polls(work)) > before, "its end", watch)  # noqa: B023
                    measured.append(parts(work, began, pushed, seen))
                    measured[-1]["CPU of the run"] = cpu_seconds(watch.process.pid) - used
                assert watch.stop() == 0
    print(f"\nfrom a push to visible, one new layer, {OTHERS} other images (s)")
    print(f"  {'':20}{'median':>8}{'worst':>8}")
    for name in measured[0]:
        taken = [one[name] for one in measured]
        print(f"  {name:20}{statistics.median(taken):8.2f}{max(taken):8.2f}")
    total = statistics.median(one["in all"] for one in measured)
    leave(Row("From a push to visible", "s", total))
    print(f"  of the {GOAL_SECONDS:g} s that it may take: {total / GOAL_SECONDS:.0%}")
