"""Status documents as a run would write them, made up."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from duccmake.run.document import (
    Day,
    Document,
    Failed,
    Health,
    Image,
    Layer,
    Sizes,
    Sync,
    Totals,
)
from duccmake.run.page.writer import write_page
from duccmake.state.model import Move

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC).timestamp()
_HOUR = 3600.0

_NAMES = ("alpine", "rootproject/root", "cms-cloud/cmssw-docker", "atlas/athena", "pytorch/pytorch")


def image(name: str = "docker.io/library/alpine:3.20", **members: object) -> Image:
    """An image that is up to date, but for what is said otherwise."""
    digest, before = _digest(name), _digest(f"{name} before")
    flat = f"/cvmfs/unpacked.example.org/{name}"
    up_to_date = Image(
        name=name,
        title=name,
        repository="unpacked.example.org",
        platform="linux/amd64",
        platforms=(),
        wish={"recipe": "recipe.yaml", "commit": "4f2a9c1e"},
        sync=Sync.UP_TO_DATE,
        health=Health.OK,
        verdict="up to date: published on Tuesday, and its tag has not moved since",
        reason="",
        next_try=None,
        wanted=digest,
        current=digest,
        history=(
            Move(digest, NOW - 90 * _HOUR),
            Move(before, NOW - 900 * _HOUR),
        ),
        first_seen=NOW - 900 * _HOUR,
        published=NOW - 89 * _HOUR,
        revision=812,
        failure=None,
        failures=(),
        sizes=Sizes(compressed=3_400_000, unpacked=8_100_000, files=492, own=400_000),
        losses={},
        layers=(0,),
        paths={
            "path": flat,
            "apptainer": f"apptainer exec {flat} /bin/sh",
            "podman": f"podman run --rm {name}",
        },
        changes={},
    )
    return replace(up_to_date, **members)  # type: ignore[arg-type]


def pending(name: str, **members: object) -> Image:
    """An image that the next run publishes."""
    return image(
        name,
        sync=Sync.PENDING,
        verdict="pending: its tag moved; the next run converts it, and what was published stays",
        reason="its tag moved",
        **{"wanted": _digest(f"{name} next"), **members},
    )


def held(name: str, reason: str = "the registry answers 429", **members: object) -> Image:
    """An image that failed and waits."""
    failure = Failed("registry", reason, NOW - 5 * _HOUR, NOW - _HOUR, 4, NOW + _HOUR)
    return image(
        name,
        **{
            "sync": Sync.HELD,
            "health": Health.FAILING,
            "verdict": f"held: {reason}; tried again from 13:00; Tuesday's version is in force",
            "reason": reason,
            "next_try": NOW + _HOUR,
            "failure": failure,
            "failures": (replace(failure, ended=NOW - 400 * _HOUR, next=None),),
            **members,
        },
    )


def leaving(name: str, **members: object) -> Image:
    """An image that is wished for no more."""
    return image(
        name,
        sync=Sync.LEAVING,
        verdict="leaving: no wish list names it any more; removed in 12 days",
        reason="no wish list names it any more",
        **members,
    )


def degraded(name: str, **members: object) -> Image:
    """An image of which not all could be kept."""
    return image(
        name,
        health=Health.DEGRADED,
        verdict="up to date, without 2 devices, which the repository cannot hold",
        reason="2 devices are not kept",
        losses={"devices": 2},
        **members,
    )


def document(*images: Image, layers: int = 1, days: int = 60) -> Document:
    """A document of these images."""
    chance = random.Random(1)
    shared = [
        Layer(
            "unpacked.example.org",
            _digest(f"layer {n}"),
            3_400_000,
            8_100_000,
            sum(n in one.layers for one in images) if len(images) < 100 else 2,
        )
        for n in range(layers)
    ]
    return Document(
        made=NOW,
        version="0.1",
        run=None,
        totals=Totals(
            images=len(images),
            sync={one: sum(image.sync == one for image in images) for one in Sync},
            health={one: sum(image.health == one for image in images) for one in Health},
            layers=layers,
            bytes=sum(one.bytes or 0 for one in shared),
            shared=sum(one.bytes or 0 for one in shared if one.images > 1),
        ),
        days=tuple(_days(days)),
        push_to_visible=tuple(chance.lognormvariate(6, 1.2) for _ in range(300)),
        layers=tuple(shared),
        images=images,
    )


def large(number: int = 5000) -> Document:
    """A document of so many images, in all states, with some 20 layers each."""
    chance = random.Random(0)
    kinds = [image] * 90 + [pending] * 4 + [held] * 3 + [leaving] * 2 + [degraded]
    layers = number * 3
    images = []
    for n in range(number):
        name = f"registry{n % 7}.example.org/{chance.choice(_NAMES)}:{n % 90}.{n}"
        images.append(
            chance.choice(kinds)(
                name,
                layers=tuple(chance.choices(range(layers), k=chance.randint(3, 20))),
                first_seen=NOW - n * 60,
                published=NOW - chance.randint(0, 900) * _HOUR,
                sizes=Sizes(*(chance.randint(1, 10**9) for _ in range(4))),
                history=tuple(
                    Move(_digest(f"{name} {k}"), NOW - k * 30 * _HOUR)
                    for k in range(chance.randint(1, 6))
                ),
            )
        )
    return document(*images, layers=layers)


def _days(number: int) -> list[Day]:
    chance = random.Random(2)
    start = datetime.fromtimestamp(NOW, UTC).date()
    return [
        Day(
            day=str(start - timedelta(days=number - 1 - n)),
            converted=chance.choice((0, 3, 12, 40)),
            failed=chance.choice((0, 0, 0, 0, 1, 5)),
            removed=0,
            images=1000 + 10 * n,
            bytes=(1000 + 12 * n) * 10**8,
        )
        for n in range(number)
        if n % 9
    ]


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()}"


def page(made: Document, directory: Path) -> Path:
    """Its page, in a directory that has the document as well."""
    (directory / "status.json").write_bytes(made.to_json())
    write_page(directory / "status.json")
    return directory / "index.html"
