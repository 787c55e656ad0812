"""Who may publish: images are held to the signature policy before anything is made of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.configuration import Config, read_policy
from ..config.settings import SignatureSettings
from ..errors import DuccmakeError
from ..oci.reference import DOCKER_ARCHIVE, Reference
from ..registry.client import Client
from ..repository.protocol import Repository
from ..workspace.results import content_store, signed
from .clients import polling_client
from .model import PlannedImage, State
from .resolution import Unresolved
from .signed_memory import SignedMemory
from .troubles import PASSING, reason_of

if TYPE_CHECKING:
    from ..signatures.policy import Policy, Requirements
    from .evidence import Evidence

_LISTED = 3


@dataclass(slots=True)
class Held:
    """The ``images`` without those that were ``refused``, and lines for people."""

    images: list[PlannedImage]
    refused: list[Unresolved] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def held_to_policy(
    images: Sequence[PlannedImage],
    repository: Repository,
    config: Config,
    pinned: Collection[str],
) -> Held:
    """Hold to the policy what is to be published, and say what is published and would not be.

    Nothing is asked about what a tag is ``pinned`` to: it was published before.
    """
    policy = read_policy(config.signatures, Path.cwd())
    if policy is None and not config.signatures.keep_referrers:
        return Held(list(images))
    asked = [image for image in images if image.name not in pinned]
    held = Held([])
    with (
        polling_client(config, {}) as client,
        ThreadPoolExecutor(config.resolve.connections, thread_name_prefix="signatures") as pool,
    ):
        judge = _Judge(policy, config, client)
        found = pool.map(judge.admit, [image for image in asked if image.state == State.PENDING])
        answers = {answer.image.name: answer for answer in found}
        held.warnings += [line for answer in answers.values() for line in answer.warnings]
        published = [image for image in asked if image.state == State.PUBLISHED]
        held.warnings += _later(published, repository, judge, pool)
    for image in images:
        answer = answers.get(image.name, _Answer(image))
        if answer.refusal:
            held.refused.append(answer.refusal)
        else:
            held.images.append(answer.image)
    return held


@dataclass(frozen=True, slots=True)
class _Answer:
    """What becomes of an image: it is taken, or refused."""

    image: PlannedImage
    refusal: Unresolved | None = None
    warnings: tuple[str, ...] = ()


class _Judge:
    """Looks for images' signatures at their registries, and holds them to the policy."""

    def __init__(self, policy: Policy | None, config: Config, client: Client) -> None:
        self._policy = policy
        self.settings = config.signatures
        self._client = client

    def admit(self, image: PlannedImage) -> _Answer:
        """The image with what is known of its signatures, or why it is not published."""
        from .kept_referrers import Kept, kept_referrers

        evidence = self._evidence(image)
        try:
            requirements = self.requirements(image.reference)
            verified = _verified(requirements, evidence) if requirements else {}
            kept = kept_referrers(evidence) if self.settings.keep_referrers else Kept()
        except DuccmakeError as error:
            return _Answer(image, _unresolved(image, error))
        lacking = tuple(f"{image.title}: {line}" for line in kept.lacking)
        taken = replace(image, signatures=verified, referrers=kept.to_json())
        return _Answer(taken, warnings=lacking)

    def reason(self, image: PlannedImage) -> str | None:
        """Why what is published would not be; "" is no reason, None that nobody can tell now."""
        requirements = self.requirements(image.reference)
        try:
            if requirements:
                _verified(requirements, self._evidence(image))
        except PASSING:
            return None
        except DuccmakeError as error:
            return error.found
        return ""

    def requirements(self, reference: Reference) -> Requirements | None:
        """What an image has to satisfy; None where there is no policy."""
        from ..signatures.docker_name import DockerName, scopes
        from ..signatures.policy import DOCKER

        if self._policy is None:
            return None
        if reference.is_local:
            return self._policy.requirements(reference.scheme, _local_scopes(reference))
        return self._policy.requirements(DOCKER, scopes(DockerName.of(reference)))

    def _evidence(self, image: PlannedImage) -> Evidence:
        from .evidence import Evidence

        return Evidence(image, self._client, content_store(), self.settings)


def _local_scopes(reference: Reference) -> list[str]:
    """Where a policy may speak of an image in files: its path and tag, its path, its folders."""
    if reference.scheme == DOCKER_ARCHIVE:
        return []
    path = Path(reference.path).resolve()
    return [f"{path}:{reference.tag}", *map(str, [path, *path.parents][:-1])]


def _verified(requirements: Requirements, evidence: Evidence) -> dict[str, object]:
    """What a record says of who signed an image; raises why it may not be published."""
    from ..signatures.docker_name import DockerName
    from ..signatures.verdict import Asked, verify

    reference = evidence.image.reference

    asked = Asked(
        None if reference.is_local else DockerName.of(reference),
        lambda is_message: evidence.lookaside if is_message else evidence.sigstore,
        unnamed=evidence.settings.unnamed == "accept",
    )
    found = verify(requirements, asked)
    stamp = _stamp(requirements, evidence.settings)
    return {"policy": stamp, "verified": [each.to_json() for each in found]}


def _stamp(requirements: Requirements, settings: SignatureSettings) -> str:
    """What stands for all that an image has to satisfy."""
    return f"{requirements.key} unnamed" if settings.unnamed == "accept" else requirements.key


def _later(
    published: Sequence[PlannedImage],
    repository: Repository,
    judge: _Judge,
    pool: ThreadPoolExecutor,
) -> list[str]:
    """Images that were published before the policy that holds now, and do not satisfy it."""
    memory, now = SignedMemory(signed(repository.name)), time.time()
    reasons: dict[str, str] = {}
    unknown: dict[str, tuple[str, PlannedImage]] = {}
    for image in published:
        record, requirements = repository.record(image.name), judge.requirements(image.reference)
        if not record or not requirements:
            continue
        stamp = _stamp(requirements, judge.settings)
        if record.signatures.get("policy") == stamp:
            continue
        key = f"{image.name} {image.manifest} {stamp}"
        known = memory.reason(key, now)
        if known is None:
            unknown[image.title] = (key, image)
        else:
            reasons[image.title] = known
    found = pool.map(judge.reason, [image for _, image in unknown.values()])
    for (title, (key, _)), reason in zip(unknown.items(), found, strict=True):
        if reason is not None:
            memory.remember(key, reason, now)
            reasons[title] = reason
    memory.save()
    wrong = [f"{title} ({reason})" for title, reason in reasons.items() if reason]
    if not wrong:
        return []
    more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
    return [
        f"published, and not signed as the policy in force says: {'; '.join(wrong[:_LISTED])}"
        f"{more}; they stay published: sign them, or take them off the wish list"
    ]


def _unresolved(image: PlannedImage, error: DuccmakeError) -> Unresolved:
    platform = image.platform if image.variants else None
    reason = reason_of(error.within(image=image.reference.name, step="signatures"))
    passing = isinstance(error, PASSING)
    return Unresolved(
        image.reference.name, platform, image.ignorable, reason, passing, image.name, error.fault
    )
