"""Names: digests, platforms and image references, parsed once and then trusted."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote

from ..errors import InvalidReference

DOCKER_HUB = "registry-1.docker.io"
"""The host that serves Docker Hub's registry API."""

_HUB_NAMES = frozenset(
    {"docker.io", "index.docker.io", "registry.hub.docker.com", "hub.docker.com", DOCKER_HUB}
)

OCI_LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE = "oci", "oci-archive", "docker-archive"
"""The schemes of images in files, as skopeo and podman write them."""

MULTIARCH = ".multiarch"
"""The directory of a repository for images that are wished for on several platforms."""

_DIGEST_LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+\Z")

# distribution-spec, "Pulling manifests": <name> and <reference> as a tag.
_NAME = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z"
)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
_TAG_GLOB = re.compile(r"[a-zA-Z0-9_*?][a-zA-Z0-9._*?-]{0,127}\Z")
_HOST = re.compile(
    r"(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)"
    r"(?::[0-9]{1,5})?\Z"
)
_MEMBER = re.compile(rf"(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]{{1,5}})?/)?{_NAME.pattern}")
_LONGEST_PART = 240
_PLATFORM_PART = re.compile(r"[a-z0-9][a-z0-9_.]*\Z")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A content digest (image-spec, descriptor.md, "Digests"): sha256 or sha512."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Parse ``sha256:<64 lower-case hex digits>``; `InvalidReference` for anything else."""
        if isinstance(text, str):
            algorithm, _, value = text.partition(":")
            if len(value) == _DIGEST_LENGTHS.get(algorithm) and _HEX.match(value):
                return cls(algorithm, value)
        raise InvalidReference(
            f"{text!r} is not a digest",
            hint="a digest is 'sha256:' and 64 lower-case hexadecimal digits",
        )

    @property
    def prefix(self) -> str:
        """The first two hex digits: the directory that shards the layout."""
        return self.hex[:2]

    @property
    def short(self) -> str:
        """Twelve hex digits, for people to read."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """An operating system, an architecture and perhaps a variant, as Go names them."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: object) -> Platform:
        """Parse ``os/architecture[/variant]``, for example ``linux/arm/v7``."""
        parts = text.split("/") if isinstance(text, str) else []
        if len(parts) in (2, 3) and all(_PLATFORM_PART.match(part) for part in parts):
            return cls(*parts)
        raise InvalidReference(
            f"{text!r} is not a platform", hint="write it as os/architecture, like linux/amd64"
        )

    def matches(self, other: Platform) -> bool:
        """Whether ``other`` (of an index entry or image config) serves this wish.

        A wish without variant takes any variant; ``arm64`` alone means ``v8``
        (image-spec, image-index.md, "Platform Variants").  What ``other`` leaves empty
        serves any wish.
        """
        if other.os not in ("", self.os) or other.architecture not in ("", self.architecture):
            return False
        if not self.variant or not (other.architecture or other.variant):
            return True
        return self.variant == (other.variant or _default_variant(other))

    @property
    def label(self) -> str:
        """The platform as one path component: ``amd64``, ``arm64`` (which is v8), ``arm-v7``."""
        variant = "" if (self.architecture, self.variant) == ("arm64", "v8") else self.variant
        return "-".join(part for part in (self.architecture, variant) if part)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def _default_variant(platform: Platform) -> str:
    return {"arm64": "v8", "arm": "v7"}.get(platform.architecture, "")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """An image in a registry, or in local files, as wished for.

    ``registry`` is the host as the operator wrote it (it becomes a directory of
    the published repository); `host` is where its API answers.  ``tag`` may be
    a glob (`is_glob`); it is empty only where a digest is given alone.

    An image in files (`is_local`) has their ``path``, relative to the working
    directory or absolute, and in an archive of several the ``member`` that is
    meant.  Its ``registry`` is its scheme, its ``repository`` what the path becomes
    in the published repository, and without ``tag`` the only image is meant.
    """

    scheme: str
    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None
    path: str = ""
    member: str = ""

    @classmethod
    def parse(cls, text: object, *, default_registry: str = "") -> Reference:
        """Parse ``[scheme://]registry/repository[:tag][@digest]``, or a local image.

        Those are ``oci:path[:tag|@digest]``, ``oci-archive:path[:tag|:name:tag|@digest]``
        and ``docker-archive:path[:name[:tag]]``.
        Without scheme ``https`` is meant, without tag and digest ``latest``.  A
        first component that is no host name takes ``default_registry``, where
        that is given.  Docker Hub's official images get their ``library/``.
        """
        if not isinstance(text, str) or not text.strip():
            raise InvalidReference(f"{text!r} is not an image reference", hint=_FORM)
        rest = text.strip()
        if is_local(rest):
            return _parse_local(cls, rest)
        scheme, separator, after = rest.partition("://")
        if separator:
            rest = after
        else:
            scheme = "https"
        if scheme not in ("http", "https"):
            raise InvalidReference(
                f"{text!r} has the unknown scheme {scheme!r}", hint="use https:// or http://"
            )
        rest, at, digest_text = rest.partition("@")
        digest = _parse_digest(text, digest_text) if at else None
        registry, slash, path = rest.partition("/")
        if not slash or not _looks_like_host(registry):
            if not default_registry:
                raise InvalidReference(f"{text!r} names no registry", hint=_FORM)
            registry, path = default_registry, rest
        if not _HOST.match(registry):
            raise InvalidReference(f"{text!r}: {registry!r} is not a host name", hint=_FORM)
        repository, colon, tag = path.rstrip("/").partition(":")
        if registry in _HUB_NAMES and "/" not in repository and repository:
            repository = f"library/{repository}"
        if not _NAME.match(repository) or len(repository) > 255:
            lower = " in lower case" if repository != repository.lower() else ""
            raise InvalidReference(
                f"{text!r}: {repository!r} is not a repository name",
                hint=f"write the repository{lower} as the registry shows it, like library/debian",
            )
        if not colon and digest is None:
            tag = "latest"
        if (colon or tag) and not _TAG_GLOB.match(tag):
            raise InvalidReference(
                f"{text!r}: {tag!r} is not a tag",
                hint="a tag is up to 128 letters, digits, '_', '.', '-' (and '*' or '?' in a glob)",
            )
        if digest is not None and not _TAG.match(tag or "x"):
            raise InvalidReference(
                f"{text!r} has both a tag glob and a digest", hint="keep one of the two"
            )
        return cls(scheme, registry.lower(), repository, tag, digest)

    @property
    def is_local(self) -> bool:
        """Whether the image is in files: no registry is asked for it."""
        return bool(self.path)

    @property
    def host(self) -> str:
        """The host, with port, where the registry's API answers."""
        return DOCKER_HUB if self.registry in _HUB_NAMES else self.registry

    @property
    def is_glob(self) -> bool:
        """Whether the tag stands for all tags that it matches."""
        return "*" in self.tag or "?" in self.tag

    def with_tag(self, tag: str) -> Reference:
        """The same repository with a concrete tag, as a registry listed it."""
        if not is_tag(tag):
            raise InvalidReference(f"{self}: the registry lists {tag!r}, which is not a tag")
        return replace(self, tag=tag)

    @property
    def api_reference(self) -> str:
        """What a manifest request asks for: the digest where there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag

    @property
    def name(self) -> str:
        """``registry/repository[:tag][@digest]``: the image's path in the repository."""
        return f"{self.registry}/{self.repository}{self.suffix}"

    def name_on(self, platform: Platform) -> str:
        """The image's path in the repository where it is wished for on several platforms."""
        return f"{MULTIARCH}/{platform.label}/{self.name}"

    @property
    def suffix(self) -> str:
        """What follows the repository in the name: ``[:tag][@digest]``."""
        # Links of local images end in a tag, too: so none is where another has a directory.
        tag = self.tag or ("latest" if self.digest is None else "")
        digest = f"@{self.digest}" if self.digest else ""
        return f":{tag}{digest}" if tag else digest

    def __str__(self) -> str:
        if self.is_local:
            member = f":{self.member}" if self.member else ""
            tag = f":{self.tag}" if self.tag else ""
            digest = f"@{self.digest}" if self.digest else ""
            return f"{self.scheme}:{self.path}{member}{tag}{digest}"
        return f"{self.scheme}://{self.name}"


_FORM = "write it as [https://]registry/repository[:tag][@digest], like docker.io/library/debian:12"

_LOCAL_FORM = (
    "write it as oci:/path/of/layout[:tag], oci-archive:/path/of/file.tar[:tag] or "
    "docker-archive:/path/of/file.tar[:name:tag]"
)


def is_tag(text: str) -> bool:
    """Whether a registry may have a tag of that name."""
    return bool(_TAG.match(text))


def is_local(text: str) -> bool:
    """Whether the text names an image in files."""
    return text.partition(":")[0] in (OCI_LAYOUT, OCI_ARCHIVE, DOCKER_ARCHIVE) and ":" in text


def _parse_local(kind: type[Reference], text: str) -> Reference:
    scheme, _, rest = text.partition(":")
    rest, at, digest_text = rest.partition("@")
    digest = _parse_digest(text, digest_text) if at else None
    path, colon, inner = rest.partition(":")
    member, tag = "", inner
    if scheme == DOCKER_ARCHIVE and at:
        raise InvalidReference(f"{text!r}: such an archive has no digests", hint=_LOCAL_FORM)
    # In an OCI archive, what has neither a slash nor a colon is a tag.
    if scheme == DOCKER_ARCHIVE or (scheme == OCI_ARCHIVE and ("/" in inner or ":" in inner)):
        folder, slash, last = inner.rpartition("/")
        name, _, tag = last.partition(":")
        member = f"{folder}{slash}{name}"
        tag = tag or ("latest" if member else "")
        if colon and not _MEMBER.match(member):
            raise InvalidReference(
                f"{text!r}: {member!r} is not an image's name",
                hint="write the name as 'docker load' shows it, like docker.io/library/debian:12",
            )
    if (tag or (colon and not member)) and not _TAG_GLOB.match(tag):
        raise InvalidReference(f"{text!r}: {tag!r} is not a tag", hint=_LOCAL_FORM)
    if digest is not None and tag:
        raise InvalidReference(f"{text!r} has a tag and a digest", hint="keep one of the two")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or not path.isprintable():
        raise InvalidReference(f"{text!r} names no file", hint=_LOCAL_FORM)
    reference = kind(
        scheme=scheme,
        registry=scheme,
        repository="/".join([*map(_public, parts), *filter(None, [member])]),
        tag=tag,
        digest=digest,
        path="/" * path.startswith("/") + "/".join(parts),
        member=member,
    )
    if any(len(part) > _LONGEST_PART for part in reference.name.split("/")):
        raise InvalidReference(
            f"{text!r} would get too long a name in the repository", hint="use a shorter path"
        )
    return reference


def _public(part: str) -> str:
    """A component of a file's path as one of a published path: no two become the same.

    What begins with a dot is the repository's own there, and ``..`` leads out.
    """
    quoted = quote(part, safe="+,=")
    plain = quoted.lstrip(".")
    return "%2E" * (len(quoted) - len(plain)) + plain


def _parse_digest(text: str, digest_text: str) -> Digest:
    try:
        return Digest.parse(digest_text)
    except InvalidReference as error:
        raise InvalidReference(f"{text!r}: {error.found}", hint=error.hint) from None


def _looks_like_host(component: str) -> bool:
    """Docker's rule: a dot, a port or ``localhost`` make the first component a host."""
    return "." in component or ":" in component or component == "localhost"
