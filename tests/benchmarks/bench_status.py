"""What a run of 5,000 images leaves: the state that is kept, the document, what is made of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rows import Row, leave

from duccmake.planning.model import State
from duccmake.planning.plan import Plan
from duccmake.run.lives import keep
from duccmake.run.status import Outcome, Result, Status, of_this_process
from duccmake.run.telling import write_status
from duccmake.state.model import Day, LayerSizes
from duccmake.state.store import changing
from support.planned import REPOSITORY, image, plan
from support.staged_trees import digest_of

IMAGES = 5000
LAYERS_OF_IMAGE = 12
SECONDS = 1.5
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "duccmake"


def _planned() -> tuple[Plan, list[Result]]:
    images = []
    for number in range(IMAGES):
        name = f"registry.example.org/team/app-{number // 10}:{number % 10}"
        state = State.PENDING if number % 50 == 0 else State.PUBLISHED
        images.append(image(name, state=state, why="new" if number % 50 == 0 else "", layers=()))
    results = [
        Result(one.title, Outcome.FAILED, "fetch layer: the registry answers 500", fault="registry")
        if one.state == State.PENDING
        else Result(one.title, Outcome.UP_TO_DATE)
        for one in images
    ]
    return plan(images), results


def _fill(directory: Path, planned: Plan) -> None:
    """What runs before have kept: layers of which half are shared."""
    chance, directory_of = random.Random(1), directory
    digests = [f"sha256:{digest_of(f'layer {n}').hex}" for n in range(IMAGES * 3)]
    directory_of.mkdir(parents=True)
    keep(planned, planned.config_in(Path.cwd()), time.time(), has_ended=False)
    with changing(directory_of) as state:
        state.layers = {digest: LayerSizes(10**6, 3 * 10**6) for digest in digests}
        for planned_image in planned.images:
            life = state.lives[planned_image.title]
            if planned_image.state == State.PUBLISHED:
                layers = tuple(chance.sample(digests, LAYERS_OF_IMAGE))
                life = replace(life, published=str(planned_image.manifest), published_at=1.0)
                state.lives[life.title] = replace(life, layers=layers, files=1000)
        days = (time.strftime("%Y-%m-%d", time.gmtime(n * 86400)) for n in range(400))
        state.days = {day: Day(day, 1, 2, 3, 4, 5) for day in days}


def _spent() -> float:
    """The processor's time, of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _took(what: str, work: Callable[[], object]) -> float:
    began = _spent()
    work()
    seconds = _spent() - began
    leave(Row(f"{IMAGES} images: {what}", "s", seconds))
    print(f"{what}: {seconds:.2f} s")
    return seconds


def test_what_a_run_leaves_is_written_in_about_a_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned, results = _planned()
    _fill(tmp_path / "root" / REPOSITORY / ".duccmake", planned)
    config = planned.config_in(tmp_path)
    plan_file = planned.save()
    status = of_this_process(f"{plan_file.stem[:12]}-1", 1.0, results, planned)
    states = {}

    def kept() -> None:
        states.update(keep(planned, config, time.time(), results))

    kept()  # new failures are written in the first run
    seconds = [
        _took("state", kept),
        _took("document", lambda: write_status(planned, config, states, status, tmp_path)),
    ]
    for path in sorted((tmp_path / "results/status").iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    assert sum(seconds) < SECONDS
    loaded = Status.load(tmp_path)
    assert loaded is not None and loaded.images == status.images
    command = [sys.executable, SCRIPT, "status"]
    shown = _took(
        "duccmake status", lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    )
    assert shown < 2.0
