"""Settings in files that CernVM-FS has a shell read: ``server.conf``, ``s3.conf``."""

from __future__ import annotations

import re
import shlex

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(CVMFS_[A-Z0-9_]+)=(.*)")


def assignments(text: str) -> dict[str, str]:
    """The assignments of a shell file that sets nothing but variables."""
    values = {}
    for line in text.splitlines():
        match = _ASSIGNMENT.match(line)
        if match is None:
            continue
        try:
            words = shlex.split(match[2], comments=True)
        except ValueError:
            continue
        values[match[1]] = words[0] if words else ""
    return values
