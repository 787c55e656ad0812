"""Names of images as policies and signatures have them: Docker's references in full."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from ..errors import InvalidReference
from ..oci.reference import DOCKER_HUB, Reference

HUB = "docker.io"

_LABEL = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = rf"{_PART}(?:/{_PART})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_NAME = re.compile(rf"({_HOST}/{_PATH})(?::({_TAG}))?(?:@({_DIGEST}))?")
_PREFIX = re.compile(rf"{_HOST}(?:/{_PATH})?")
_ID = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class DockerName:
    """``host/path[:tag][@digest]``; ``name`` is host and path."""

    name: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference as Docker does, Docker Hub's in their short form as well.

        Raises `InvalidReference`.
        """
        host, slash, path = text.partition("/")
        if not slash or not (
            "." in host or ":" in host or host == "localhost" or host != host.lower()
        ):
            host, path = HUB, text
        host = HUB if host == "index.docker.io" else host
        if host == HUB and "/" not in path:
            path = f"library/{path}"
        found = _NAME.fullmatch(f"{host}/{path}")
        if found is None or _ID.fullmatch(text):
            raise InvalidReference(f"{text!r} is no reference of an image")
        return cls(found[1], found[2] or "", found[3] or "")

    @classmethod
    def of(cls, reference: Reference) -> Self:
        """What an image of a registry is called; one with a digest by that alone, as by podman."""
        host = HUB if reference.host == DOCKER_HUB else reference.registry
        name = f"{host}/{reference.repository}"
        if reference.digest:
            return cls(name, digest=str(reference.digest))
        return cls(name, reference.tag)

    @property
    def is_name_only(self) -> bool:
        """Whether it has neither tag nor digest."""
        return not (self.tag or self.digest)

    def __str__(self) -> str:
        tag, digest = self.tag and f":{self.tag}", self.digest and f"@{self.digest}"
        return f"{self.name}{tag}{digest}"


def is_prefix(text: str) -> bool:
    """Whether a text is a host, or a host with a path, as ``remapIdentity`` wants it."""
    return bool(_PREFIX.fullmatch(text))


def scopes(name: DockerName) -> list[str]:
    """Where a policy may speak of an image, most specific first (containers-policy.json(5))."""
    found = [str(name), name.name]
    path = name.name
    while "/" in path:
        path = path.rpartition("/")[0]
        found.append(path)
    host = path.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        found.append(f"*.{host}")
    return found
