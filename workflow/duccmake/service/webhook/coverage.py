"""Which notices a notification amounts to: those for images of the wish list."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...config.configuration import Config
from ...errors import DuccmakeError, InvalidReference
from ...oci.reference import Reference
from ...recipe.coverage import Coverage, admits
from ...recipe.sources.load import load_sources
from ...workspace.results import SOURCES
from ..notices import Notice
from .formats import Notification, git_place, is_digest

logger = logging.getLogger(__name__)


class WishLists:
    """The wish lists of a configuration, read again when their files change.

    Lists from elsewhere are never fetched here: the version that is in force counts.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._seen: tuple[object, ...] = ()
        self._coverage: Coverage | None = None
        self._aliases = {_bare(name): _bare(to) for name, to in config.webhook.aliases.items()}
        self._lists = {git_place(source.url) for source in config.recipe if source.kind == "git"}

    def notices(self, notification: Notification, sender: str) -> list[Notice]:
        """The notices to leave; none for an image that nobody wishes for.

        As long as no wish list could be read, every image counts: better a poll too
        many than an image lost.
        """
        found = dict.fromkeys(self._images(notification))
        action = "delete" if notification.action == "delete" else "push"
        return [Notice(image, action, sender) for image in found]

    def names(self, image: Reference) -> list[str] | None:
        """What an image is called in the wish lists that cover it; None where none can be read.

        It need not name a port that its registry has anyway.
        """
        coverage = self._current()
        if coverage is None:
            return None
        registry = self._aliases.get(_bare(image.registry), _bare(image.registry))
        found: dict[str, None] = {}
        for host in _hosts(replace(image, registry=registry)):
            for wish in coverage.wishes_in(host, image.repository):
                named = replace(image, registry=wish.reference.registry)
                if admits(wish, named):
                    found[named.name] = None
        return list(found)

    def _images(self, notification: Notification) -> Iterator[str]:
        if notification.action == "list":
            if notification.repository in self._lists:
                yield ""
            return
        coverage = self._current()
        if notification.action == "project":
            for wish in coverage.below(notification.repository) if coverage else ():
                yield wish.reference.name
            return
        reference = self._reference(notification)
        if reference is None:
            return
        if coverage is None:
            # Of what lies below, nothing but a poll of all has a name.
            yield "" if notification.below else reference.name
            return
        hosts = _hosts(reference)
        if notification.below:
            for wish in coverage.below(reference.repository, hosts):
                yield wish.reference.name
            return
        for wish in (w for host in hosts for w in coverage.wishes_in(host, reference.repository)):
            wished = wish.reference
            # By the registry's name that the wish list uses, as the image's own is.
            image = replace(reference, registry=wished.registry)
            if notification.tag and admits(wish, image):
                yield wished.with_tag(notification.tag).name if wished.is_glob else wished.name
            elif _may_have_moved(wished, notification):
                yield wished.name

    def _reference(self, notification: Notification) -> Reference | None:
        registry = self._aliases.get(_bare(notification.registry), _bare(notification.registry))
        text = f"{registry}/{notification.repository}:{notification.tag or '*'}"
        if notification.digest and not is_digest(notification.digest):
            return None
        try:
            reference = Reference.parse(text)
        except InvalidReference:
            return None
        if reference.is_local or (notification.tag and reference.is_glob):
            return None
        return reference

    def _current(self) -> Coverage | None:
        seen = tuple(_stamp(path) for path in self._files())
        if seen != self._seen or self._coverage is None:
            try:
                loaded = load_sources(self._config.recipe, SOURCES, fetch=False)
            except DuccmakeError as error:
                logger.warning("%s", error)
            else:
                whole = all(not source.is_remote for source in self._config.recipe)
                if loaded.recipes and (whole or not any(r.stale for r in loaded.recipes)):
                    self._coverage = Coverage(loaded.recipes)
            self._seen = seen
        return self._coverage

    def _files(self) -> Iterator[Path]:
        for source in self._config.recipe:
            if not source.is_remote:
                yield source.path
        yield from sorted(SOURCES.glob("*/good.json"))


def _bare(registry: str) -> str:
    """A registry without the port that it has anyway: senders and wish lists may name it or not."""
    return re.sub(r":(443|80)\Z", "", registry.lower())


def _hosts(reference: Reference) -> tuple[str, ...]:
    """The hosts that wishes for a registry may have, as `_bare` had it."""
    return reference.host, f"{reference.registry}:443", f"{reference.registry}:80"


def _may_have_moved(wished: Reference, notification: Notification) -> bool:
    """Whether a notification that names no tag may be about a wish."""
    if wished.digest and notification.digest:
        return str(wished.digest) == notification.digest
    return not notification.tag


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return path, None
    return path, found.st_mtime_ns, found.st_size, found.st_ino
