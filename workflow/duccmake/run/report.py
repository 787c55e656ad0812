"""What ``snakemake --report`` shows: how the images stand that the last run told of, as files.

It asks no registry, and is about what was done, whatever is pending by now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DuccmakeError
from ..fs.files import write_atomically
from ..planning.model import PlannedImage, PlannedLayer
from ..planning.plan import Plan
from ..planning.resolution import Resolved
from ..workspace.results import IMAGES_TABLE, PAGE, PICTURES, STATUS, content_store, published
from .page.pictures import drawings
from .table import newest_plan

_TIMED = 100
"""Of so many images that were published last, it shows how long each job took."""


def report_files(workdir: Path) -> dict[str, Path]:
    """The files that it has, by what their captions are called; pictures are drawn now.

    Raises `DuccmakeError` where no run has ended yet.
    """
    try:
        document: Mapping[str, Any] = json.loads((workdir / STATUS).read_bytes())
    except (OSError, ValueError):
        raise _nothing() from None
    found = {"images": PAGE, "table": IMAGES_TABLE}
    for name, drawing in drawings(document).items():
        found[name] = PICTURES / f"{name}.svg"
        write_atomically(workdir / found[name], drawing)
    return found


def _nothing() -> DuccmakeError:
    return DuccmakeError(
        "there is nothing to report: no run has ended in this working directory",
        hint="run 'snakemake --cores 2' first",
    )


def report_plan(workdir: Path) -> Plan:
    """How what was published last was made, by the newest plan.

    Raises `DuccmakeError` where there is none.
    """
    file = newest_plan(workdir)
    if file is None:
        raise _nothing()
    plan = Plan.load(file)
    made = sorted(_made(plan), key=lambda item: item[0], reverse=True)[:_TIMED]
    images = tuple(image for _, image in made)
    return replace(plan, images=images, problems=(), thins=(), warnings=(), scope="all")


def _made(plan: Plan) -> Iterator[tuple[float, PlannedImage]]:
    """The images that runs in this directory have published, each with the time of that."""
    for image in plan.images:
        receipt = published(image.repository, image.name, plan.key(image.manifest))
        with suppress(OSError, DuccmakeError):  # results/ may have been deleted
            at = receipt.stat().st_mtime
            yield at, image if image.layers else replace(image, layers=_layers(image))


def _layers(image: PlannedImage) -> tuple[PlannedLayer, ...]:
    wished = image.reference, image.platform, False, image.manifest, image.config, "", (), ()
    manifest, config = Resolved(*wished).read(content_store())
    pairs = zip(manifest.layers, config.diff_ids, strict=True)
    return tuple(PlannedLayer(descriptor, diff_id) for descriptor, diff_id in pairs)
