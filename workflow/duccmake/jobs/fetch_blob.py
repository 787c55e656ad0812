"""Fetching a layer's blob: from whichever image of the plan still has it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import DuccmakeError, NotFound
from ..planning.model import Claim
from ..registry.client import Client
from ..registry.places import Places

logger = logging.getLogger(__name__)


def fetch_layer(claims: Sequence[Claim], client: Client, path: Path) -> int:
    """Download a layer's blob to ``path``, verified; returns the bytes that came.

    Several images may share the layer, also from different registries: they are
    asked in turn, each by what it says of the blob itself, and first those that most
    agree with.  Raises the error of the last one.
    """
    failure: DuccmakeError = NotFound("no image of the plan has the layer")
    places = Places(client)
    sizes = Counter(claim.layer.descriptor.size for claim in claims)
    asked = set()
    for claim in sorted(claims, key=lambda claim: -sizes[claim.layer.descriptor.size]):
        image, descriptor = claim.image, claim.layer.descriptor
        question = (image.reference.host, image.reference.repository, descriptor)
        if question in asked:
            continue
        asked.add(question)
        try:
            images = places.of(image.reference)
            return images.fetch_blob(image.reference, descriptor, path)
        except DuccmakeError as error:
            step = f"fetch layer {descriptor.digest.short}"
            failure = error.within(image=image.title, step=step)
            logger.info("%s", failure)
    raise failure
