"""Where things lie below ``results/``, what a run keeps in its working directory."""

from __future__ import annotations

from pathlib import Path

from ..oci.content_store import ContentStore

RESULTS = Path("results")
"""What the workflow keeps below its working directory."""

LIMITS = RESULTS / "limits"
"""Where jobs that run at the same time share the limits of each registry."""

SOURCES = RESULTS / "sources"
"""Where wish lists from elsewhere are kept."""


def content_store() -> ContentStore:
    """Where manifests and configurations are kept between runs."""
    return ContentStore(RESULTS / "manifests")
