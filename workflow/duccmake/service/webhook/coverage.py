"""Which notices a notification amounts to: those for images of the wish list."""

from __future__ import annotations

import logging
from collections.abc import Iterator
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


class Wished:
    """The wish lists of a configuration, read again when their files change.

    Lists from elsewhere are never fetched here: the version that is in force counts.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._seen: tuple[object, ...] = ()
        self._coverage: Coverage | None = None
        self._lists = {git_place(source.url) for source in config.recipe if source.kind == "git"}

    def notices(self, notification: Notification, sender: str) -> list[Notice]:
        """The notices to leave; none for an image that nobody wishes for.

        As long as no wish list could be read, every image counts: better a poll too
        many than an image lost.
        """
        found = dict.fromkeys(self._images(notification))
        action = "delete" if notification.action == "delete" else "push"
        return [Notice(image, action, sender) for image in found]

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
            yield reference.name
            return
        anything = not notification.tag and not notification.digest
        for wish in coverage.wishes_in(reference.host, reference.repository):
            wished = wish.reference
            if notification.tag and admits(wish, reference):
                # By the registry's name that the wish list uses, as the image's own is.
                yield wished.with_tag(notification.tag).name if wished.is_glob else wished.name
            elif anything or (wished.digest and str(wished.digest) == notification.digest):
                yield wished.name

    def _reference(self, notification: Notification) -> Reference | None:
        registry = self._config.webhook.aliases.get(notification.registry, notification.registry)
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


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return path, None
    return path, found.st_mtime_ns, found.st_size, found.st_ino
