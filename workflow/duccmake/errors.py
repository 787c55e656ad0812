"""The error tree: one root, and each error says what, where and what to do."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Self


class Fault(StrEnum):
    """What kind of thing is at fault: so metrics count failures, and pauses go by it."""

    REGISTRY = "registry"
    UNREACHED = "unreached"
    DENIED = "denied"
    MISSING = "missing"
    MANIFEST = "manifest"
    DIGEST = "digest"
    LAYER = "layer"
    LIMIT = "limit"
    PRIVATE = "private"
    SIGNATURE = "signature"
    SPACE = "space"
    REPOSITORY = "repository"
    OTHER = "other"


def one_line(text: str) -> str:
    """A text, some of which others wrote, as a line that does nothing to a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in " ".join(text.split())
    )


class DuccmakeError(Exception):
    """Root of every error that duccmake raises on purpose; prints as one line.

    ``found`` says what was found.  ``image`` and ``step`` say which image and
    what was being done with it; whoever knows them adds them with `within`.
    ``hint`` says what the operator can do.  ``fault`` is what an error of another kind, which
    this one hands on, was at fault for.
    """

    kind: ClassVar[Fault] = Fault.OTHER

    def __init__(
        self, found: str, *, image: str = "", step: str = "", hint: str = "", fault: str = ""
    ) -> None:
        super().__init__(found)
        self.fault = Fault(fault) if fault else self.kind
        self.found = found
        self.image = image
        self.step = step
        self.hint = hint

    def within(self, *, image: str = "", step: str = "") -> Self:
        """Fill in the image and the step where they are not yet known."""
        self.image = self.image or image
        self.step = self.step or step
        return self

    def __str__(self) -> str:
        line = ": ".join(part for part in (self.image, self.step, self.found) if part)
        if self.hint:
            line = f"{line}; {self.hint}"
        return one_line(line)


class InvalidReference(DuccmakeError, ValueError):
    """A digest, platform or image reference that does not parse."""


class ConfigError(DuccmakeError):
    """The configuration is invalid."""


class RecipeError(DuccmakeError):
    """A wish list, or an entry of one, is invalid."""


class ManifestError(DuccmakeError):
    """A manifest, index or image configuration is not what the specification asks."""

    kind = Fault.MANIFEST


class UnsupportedImage(ManifestError):
    """Well formed, but nothing that can be unpacked: an artifact, schema 1, no such platform."""


class NoSuchPlatform(UnsupportedImage):
    """An image that is there, and not for the platform that is wished for."""


class RegistryError(DuccmakeError):
    """A registry did not answer as it should."""

    kind = Fault.REGISTRY


class RegistryUnavailable(RegistryError):
    """Connection failures, time-outs, 5xx: what is known stays in force."""


class Unauthorized(RegistryError):
    """401 or 403: credentials are missing or refused."""

    kind = Fault.DENIED


MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
"""What a registry calls a tag or a manifest that it does not have (distribution-spec)."""


class NotFound(RegistryError):
    """404: no such repository, tag, manifest or blob.

    ``code`` is what the registry calls it, such as `MANIFEST_UNKNOWN`; empty where
    whoever answered has no such word.
    """

    kind = Fault.MISSING
    code = ""


class RateLimited(RegistryError):
    """429: the registry asks to wait longer than duccmake is prepared to."""


class DigestMismatch(DuccmakeError):
    """Content does not have the digest, or the size, that its descriptor names."""

    kind = Fault.DIGEST


class WrongSize(DigestMismatch):
    """Content has the digest that its descriptor names, and another size: the descriptor lies."""


class LayerError(DuccmakeError):
    """A layer that cannot be unpacked."""

    kind = Fault.LAYER


class CorruptLayer(LayerError):
    """The stream is truncated, damaged or not to be decompressed, or no tar archive."""


class UnsafeLayer(LayerError):
    """An entry that points out of its layer, or a name that means nothing."""


class LimitExceeded(LayerError):
    """The layer is over a limit of the configuration."""

    kind = Fault.LIMIT


class NoSpace(DuccmakeError):
    """The file system is full, or a quota is used up."""

    kind = Fault.SPACE


class RepositoryError(DuccmakeError):
    """The repository cannot be read or written."""

    kind = Fault.REPOSITORY


class RepositoryLocked(RepositoryError):
    """Another publisher has held the repository for longer than the limit."""
