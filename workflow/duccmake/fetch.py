"""Fetching a layer's blob: from whichever image of the plan still has it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import DuccmakeError, NotFound
from .plan import PlannedImage, PlannedLayer
from .registry.anywhere import Anywhere
from .registry.client import Client

logger = logging.getLogger(__name__)


def fetch_layer(
    layer: PlannedLayer,
    images: Sequence[PlannedImage],
    client: Client,
    path: Path,
    progress: Callable[[int], None],
) -> int:
    """Download the layer's blob to ``path``, verified; returns the bytes that came.

    Several images may share the layer, also from different registries: they are
    asked in turn.  Raises the error of the last one.
    """
    failure: DuccmakeError = NotFound(f"no image of the plan has the layer {layer.digest}")
    places = Anywhere(client)
    asked = set()
    for image in images:
        source = (image.reference.host, image.reference.repository)
        if source in asked:
            continue
        asked.add(source)
        try:
            return places.fetch_blob(image.reference, layer.descriptor, path, progress=progress)
        except DuccmakeError as error:
            failure = error.within(image=image.title, step=f"fetch layer {layer.digest.short}")
            logger.info("%s", failure)
    raise failure
