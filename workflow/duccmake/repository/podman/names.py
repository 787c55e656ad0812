"""What podman calls an image that has a name in the repository."""

from __future__ import annotations

import re

from ...oci.reference import DOCKER_HUB, Digest
from ..layout import split_variant

_LONGEST = 255
"""What containers/image takes as a repository's name."""

_HUB = "docker.io"
_HUB_ALIASES = frozenset({"registry.hub.docker.com", "hub.docker.com", DOCKER_HUB})
"""Names of Docker Hub that podman takes for registries of their own."""

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(
    r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*(?::[0-9]+)?"
    rf"(?:/{_PART})+\Z"
)


def names_of(name: str) -> tuple[str, ...]:
    """The names by which podman finds the image ``name`` (``registry/repository:tag``).

    Images of Docker Hub are found as ``docker.io/...``, and as they are called here,
    local ones below ``localhost/``.  A digest stands without the tag, as podman
    looks it up.  Empty where podman could not read the name, which keeps it from
    listing any: such an image is found by its id.  Of an image of several platforms
    that for amd64 has the name, for a store knows one image by it.
    """
    label, public = split_variant(name)
    if label not in ("", "amd64"):
        return ()
    rest, at, digest = public.partition("@")
    path, tag = _split(rest)
    suffix = f"@{digest}" if at else f":{tag}"
    return tuple(f"{repository}{suffix}" for repository in _repositories(path))


def pinned_names_of(name: str, manifest: Digest) -> tuple[str, ...]:
    """The names of an image whose tag another one has: the repository with the digest."""
    path, _ = _split(split_variant(name)[1].partition("@")[0])
    return tuple(f"{repository}@{manifest}" for repository in _repositories(path))


def _split(rest: str) -> tuple[str, str]:
    folder, slash, last = rest.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{folder}{slash}{last}", tag


def _repositories(path: str) -> list[str]:
    registry, _, below = path.partition("/")
    if registry == "index.docker.io":
        found = [f"{_HUB}/{below}"]
    elif registry in _HUB_ALIASES:
        found = [f"{_HUB}/{below}", path]
    elif "." in registry or ":" in registry or registry == "localhost":
        found = [path]
    else:
        found = [f"localhost/{path}"]
    return [one for one in found if _REPOSITORY.match(one) and len(one) <= _LONGEST]
