"""What registries answer, made sense of: manifests with their digests, pages of tags."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from urllib.parse import urljoin

from ..errors import DigestMismatch, InvalidReference, ManifestError, RegistryError
from ..manifest import Index, Manifest, parse_manifest
from ..reference import Digest
from .transport import Reply


def matching(pattern: str, tags: Iterable[str]) -> list[str]:
    """The tags that a glob matches whole: ``*`` any text, ``?`` one character, nothing else."""
    wildcards = {"*": ".*", "?": "."}
    expression = re.compile("".join(wildcards.get(char) or re.escape(char) for char in pattern))
    return [tag for tag in tags if expression.fullmatch(tag)]


def parse_verified(reply: Reply, wanted: str) -> Manifest | Index:
    """Check the bytes against every digest that is known of them, then parse."""
    algorithm = "sha256"
    promised = {wanted} if ":" in wanted else set()
    header = reply.headers.get("Docker-Content-Digest")
    if header:
        promised.add(header.strip())
    for text in sorted(promised):
        try:
            digest = Digest.parse(text)
        except InvalidReference as error:
            raise RegistryError(f"the registry names a wrong digest: {error.found}") from None
        found = hashlib.new(digest.algorithm, reply.body).hexdigest()
        if found != digest.hex:
            raise DigestMismatch(
                f"a manifest with {digest.algorithm}:{found} came where {digest} was promised",
                mend="the registry or a proxy serves damaged content: ask its operator",
            )
        if text == wanted:
            algorithm = digest.algorithm
    return parse_manifest(reply.body, reply.headers.get("Content-Type", ""), algorithm=algorithm)


def tags_page(reply: Reply) -> tuple[list[str], str]:
    """The tags of one page and the address of the next, or ""."""
    try:
        tags = json.loads(reply.body)["tags"] or []
    except (ValueError, LookupError, TypeError, RecursionError):
        tags = None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ManifestError(
            "the registry's list of tags cannot be read",
            mend="see whether a proxy or a login page answers instead of the registry",
        )
    return tags, _next_page(reply) if "Link" in reply.headers else ""


def _next_page(reply: Reply) -> str:
    from requests.utils import parse_header_links  # slow to import

    for link in parse_header_links(reply.headers["Link"]):
        if link.get("rel") == "next":
            return urljoin(reply.url, link["url"])
    return ""
