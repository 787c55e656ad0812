"""Manifests as registries answer them, checked against their digests; globs over tags."""

from __future__ import annotations

import hashlib

from ..errors import DigestMismatch, InvalidReference, RegistryError
from ..oci.manifest import Index, Manifest, parse_manifest
from ..oci.reference import Digest
from .http.transport import Reply


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
                hint="the registry or a proxy serves damaged content: ask its operator",
            )
        if text == wanted:
            algorithm = digest.algorithm
    return parse_manifest(reply.body, reply.headers.get("Content-Type", ""), algorithm=algorithm)
