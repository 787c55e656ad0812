"""Whether the name that a signature gives is the image's (containers-policy.json(5))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InvalidReference
from .docker_name import DockerName

Way = Literal[
    "matchExact",
    "matchRepoDigestOrExact",
    "matchRepository",
    "exactReference",
    "exactRepository",
    "remapIdentity",
]


@dataclass(frozen=True, slots=True)
class SignedIdentity:
    """How the name in a signature is compared; ``prefix`` and ``signed`` are what some ways need.

    ``signed`` is the reference or repository that the name has to be, or what stands in it for
    ``prefix``.
    """

    way: Way = "matchRepoDigestOrExact"
    prefix: str = ""
    signed: str = ""

    def accepts(self, image: DockerName | None, text: str) -> bool:
        """Whether a signature for ``text`` is one for the image; None is one without a name."""
        try:
            found = DockerName.parse(text)
            wanted = DockerName.parse(self.signed) if self.way.startswith("exact") else image
            return wanted is not None and self._matches(wanted, found)
        except InvalidReference:
            return False

    def _matches(self, image: DockerName, found: DockerName) -> bool:
        if self.way in ("matchRepository", "exactRepository"):
            return image.name == found.name
        if self.way in ("matchExact", "exactReference"):
            return not image.is_name_only and image == found
        return _is_same(self._mapped(image), found)

    def _mapped(self, image: DockerName) -> DockerName:
        if self.way != "remapIdentity" or not f"{image.name}/".startswith(f"{self.prefix}/"):
            return image
        name = self.signed + image.name.removeprefix(self.prefix)
        # Read as it is written: a signed prefix gets none of Docker Hub's short forms.
        return DockerName(name, image.tag, image.digest)


def _is_same(image: DockerName, found: DockerName) -> bool:
    """By tag exactly; an image by digest takes any tag of its repository."""
    if found.is_name_only or image.is_name_only:
        return False
    return image == found if image.tag else image.name == found.name
