"""Private images: everybody can read a repository, but not every image at its registry."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..config.configuration import Config
from ..errors import DuccmakeError, Fault, NotFound, Unauthorized
from ..oci.reference import Reference
from ..registry.client import Client
from .clients import anonymous_client
from .model import PlannedImage, State
from .resolution import Unresolved
from .troubles import PASSING, reason_of


def is_public(anonymous: Client, reference: Reference) -> bool:
    """Whether anybody can read an image: asked as somebody who has no credentials.

    Raises what a poll does where the registry gives no answer.
    """
    try:
        anonymous.poll(reference)
    except (NotFound, Unauthorized):
        # To whom it shows nothing, a registry may say that nothing is there.
        return False
    return True


def without_private(
    images: Sequence[PlannedImage], config: Config, held: Collection[str]
) -> tuple[list[PlannedImage], list[Unresolved]]:
    """The images without those that may not be published, and these, with the reasons.

    Asked are the registries of what is to be published; nobody is for what is published
    as it is, or is ``held`` at what it was.
    """
    asked = {
        image.reference
        for image in images
        if image.state == State.PENDING and image.name not in held and not image.reference.is_local
    }
    found = _refusals(asked, config)
    kept = [image for image in images if image.reference not in found]
    refused = [
        _unresolved(image, found[image.reference]) for image in images if image.reference in found
    ]
    return kept, refused


def _refusals(references: Iterable[Reference], config: Config) -> dict[Reference, DuccmakeError]:
    with (
        anonymous_client(config) as client,
        ThreadPoolExecutor(config.resolve.connections, thread_name_prefix="anybody") as pool,
    ):

        def ask(reference: Reference) -> tuple[Reference, DuccmakeError | None]:
            try:
                refusal = None if is_public(client, reference) else private_error()
            except DuccmakeError as error:
                refusal = error
            return reference, refusal and refusal.within(image=reference.name)

        return {reference: refusal for reference, refusal in pool.map(ask, references) if refusal}


def private_error(*, is_refused: bool = True) -> DuccmakeError:
    """Why a private image is none to publish, or perhaps none."""
    return DuccmakeError(
        "its registry shows it to nobody without credentials, and what is published everybody "
        "can read",
        hint="make it public there, take it off the wish list, or write 'private: allow'"
        if is_refused
        else "see whether that is meant; 'private: refuse' keeps such images out",
        fault=Fault.PRIVATE,
    )


def _unresolved(image: PlannedImage, error: DuccmakeError) -> Unresolved:
    platform = image.platform if image.variants else None
    passing = isinstance(error, PASSING)
    reason = reason_of(error)
    return Unresolved(
        image.reference.name, platform, image.ignorable, reason, passing, image.name, error.fault
    )
