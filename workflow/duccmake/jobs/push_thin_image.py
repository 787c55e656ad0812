"""Pushing a thin image, in both of its forms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import (
    DuccmakeError,
    InvalidReference,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    Unauthorized,
)
from ..oci.content_store import ContentStore
from ..oci.reference import Reference
from ..planning.model import PlannedImage, PlannedThin
from ..planning.pending import why_pending
from ..planning.thin_form import Content, Form, bases_of, docker_of, oci_of
from ..planning.thin_images import of_account, of_anybody
from ..registry.client import Client
from ..repository.protocol import Repository

logger = logging.getLogger(__name__)


def push_thin(
    thin: PlannedThin,
    images: Sequence[PlannedImage],
    repository: Repository,
    store: ContentStore,
    client: Client,
) -> bytes:
    """Push the thin image of ``images``; returns the manifest that has its tag now.

    Nothing is sent that the registry has.  Its layers have to be visible in the
    repository.  The OCI form, which some registries do not take, is no condition.
    Raises what `Client` raises, and `DuccmakeError` where something is not there.
    """
    for image in images:
        if why := why_pending(image, repository, repository.record(image.name)):
            raise DuccmakeError(
                f"its layers are not in the repository as they are wished for ({why})",
                image=image.title,
                step="push the thin image",
                hint="run again",
            )
    bases = bases_of(images, store)
    target = Reference.parse(thin.target)
    docker = docker_of(bases, thin)
    _push(client, target, docker)
    try:
        subject = client.has_referrers(target, bases[0].manifest.digest)
        _push(client, target, oci_of(bases, thin, subject=subject))
    except (RegistryUnavailable, RateLimited, Unauthorized):
        raise
    except (RegistryError, InvalidReference) as error:
        logger.warning("%s: it is there for Docker only: %s", thin.target, error)
    return docker.top.content


def refusal(target: Reference, error: RegistryError, *, anonymous: bool) -> Path | None:
    """Where to note that an error says that no push is taken; None where it does not say so.

    Who comes with credentials is refused as `Unauthorized`; what else goes wrong is no
    answer to that.
    """
    if anonymous:
        passing = isinstance(error, RegistryUnavailable | RateLimited)
        return None if passing else of_anybody(target)
    return of_account(target) if isinstance(error, Unauthorized) else None


def _push(client: Client, target: Reference, form: Form) -> None:
    """Blobs, then manifests, then what the tag stands for: it names nothing that is not there."""
    tagged = target.with_tag(form.tag)
    if client.pushed(tagged) == form.top.descriptor.digest:
        logger.info("%s is there already", tagged)
        return
    for blob in form.blobs:
        client.push_blob(target, blob.descriptor, blob.content)
    for manifest in form.manifests:
        by_digest = replace(target, tag="", digest=manifest.descriptor.digest)
        _push_manifest(client, by_digest, manifest)
    _push_manifest(client, tagged, form.top)
    logger.info("pushed %s as %s", tagged, form.top.descriptor.digest)


def _push_manifest(client: Client, reference: Reference, content: Content) -> None:
    client.push_manifest(reference, content.content, content.descriptor.media_type)
