"""Whether a request comes from whom it says: shared secrets and signatures."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import time
from collections.abc import Mapping

from ...config.settings import WebhookSecrets
from ...errors import ConfigError

MAX_AGE_SECONDS = 300.0
"""How old a signed request may be: older ones are replays."""


def read_secrets(names: WebhookSecrets) -> dict[str, str]:
    """The secrets by sender, from the environment; `ConfigError` where one is not there."""
    secrets = {}
    for sender in WebhookSecrets.__slots__:
        name = getattr(names, sender)
        if not name:
            continue
        secrets[sender] = os.environ.get(name, "")
        if not secrets[sender]:
            raise ConfigError(
                f"webhook.secrets.{sender}: the environment variable {name} is not set",
                hint="set it, or leave the key out",
            )
    return secrets


def is_genuine(
    secret: str, headers: Mapping[str, str], body: bytes, path_secret: str = "", *, now: float = 0
) -> bool:
    """Whether a request carries the secret, in any of the ways that senders know.

    As the Authorization header (Harbor, Distribution), with or without ``Bearer``; as
    ``X-Gitlab-Token``; at the end of the path (Docker Hub, Quay); or as the key of a
    signature (GitHub's; Standard Webhooks, as GitLab has it).  A signature that is there
    must fit, whatever else does.  An empty ``secret`` lets all pass.
    """
    if not secret:
        return True
    if signatures := headers.get("webhook-signature", ""):
        return _is_signed(secret, headers, body, signatures, now or time.time())
    if (signature := headers.get("x-hub-signature-256")) is not None:
        signed = hmac.digest(secret.encode(), body, "sha256")
        return _same(signature, f"sha256={signed.hex()}")
    authorization = headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    given = [authorization, headers.get("x-gitlab-token", ""), path_secret]
    given += [token.strip()] if scheme.lower() == "bearer" else []
    # All are compared, so that the time taken says nothing of which one fits.
    return True in [_same(candidate, secret) for candidate in given]


def _is_signed(
    secret: str, headers: Mapping[str, str], body: bytes, signatures: str, now: float
) -> bool:
    identity, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    try:
        if not abs(now - float(stamp)) <= MAX_AGE_SECONDS:  # nor is this true of nan
            return False
        key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    except (ValueError, binascii.Error):
        return False
    signed = hmac.digest(key, f"{identity}.{stamp}.".encode() + body, "sha256")
    wanted = f"v1,{base64.b64encode(signed).decode()}"
    return True in [_same(candidate, wanted) for candidate in signatures.split()]


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
