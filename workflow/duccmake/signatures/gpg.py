"""Simple signing: a payload in a message that GnuPG has signed.

``gpg`` itself judges, as it does for podman and skopeo, with a home of its own that has no keys
but the policy's; nothing of the user's is read or written, and no agent is started.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .reading import NotSatisfied

_LONGEST_PAYLOAD = 1024**2
_SECONDS = 60

_BAD = frozenset(
    {"BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NODATA", "UNEXPECTED", "FAILURE"}
    | {"BEGIN_DECRYPTION", "DECRYPTION_INFO", "TRUST_NEVER"}
)
"""What says that a message is not just one good signature of a key that is in force (doc/DETAILS
of GnuPG); a key that has expired or was revoked makes ``EXPKEYSIG`` and ``REVKEYSIG``."""


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """What was signed, and the fingerprint of the primary key that signed it."""

    payload: bytes
    fingerprint: str


def opened(message: bytes, keys: Sequence[bytes]) -> SignedMessage:
    """The payload of a message that exactly one of the keys has signed; `NotSatisfied` else."""
    with tempfile.TemporaryDirectory(prefix="duccmake-gpg-") as home:
        for key in keys:
            _gpg(home, key, "--import-options", "import-minimal", "--import")
        payload = Path(home, "payload")
        status = _gpg(home, message, "--output", str(payload), "--decrypt")
        words = [line.split(" ") for line in status if line]
        found = [word[0] for word in words]
        for bad in _BAD.intersection(found):
            raise NotSatisfied(f"gpg says {bad} of it")
        if any(found.count(name) != 1 for name in ("NEWSIG", "GOODSIG", "VALIDSIG", "PLAINTEXT")):
            raise NotSatisfied("it is no message with one good signature by a key of the policy")
        valid = next(word for word in words if word[0] == "VALIDSIG")
        return SignedMessage(payload.read_bytes(), valid[-1])


def _gpg(home: str, given: bytes, *arguments: str) -> list[str]:
    """What gpg says of its standing, a line each."""
    options = ("--batch", "--no-tty", "--no-options", "--no-autostart", "--no-auto-key-locate")
    limits = ("--trust-model", "always", "--max-output", str(_LONGEST_PAYLOAD), "--status-fd", "1")
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": home}
    try:
        done = subprocess.run(
            ["gpg", "--homedir", home, *options, *limits, *arguments],
            input=given,
            capture_output=True,
            timeout=_SECONDS,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise NotSatisfied("the program 'gpg' is not there to verify it: install GnuPG") from None
    except subprocess.TimeoutExpired:
        raise NotSatisfied(f"gpg did not end within {_SECONDS} seconds") from None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return [line.removeprefix("[GNUPG:] ") for line in lines if line.startswith("[GNUPG:] ")]
