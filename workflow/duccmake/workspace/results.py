"""Where things lie below ``results/``, what a run keeps in its working directory.

The rules in ``workflow/rules/`` name the outputs of jobs with the same paths.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from ..oci.content_store import ContentStore
from .reports import JobName, Rule

RESULTS = Path("results")
"""What the workflow keeps below its working directory."""

LIMITS = RESULTS / "limits"
"""Where jobs that run at the same time share the limits of each registry."""

SOURCES = RESULTS / "sources"
"""Where wish lists from elsewhere are kept."""

POLLS = RESULTS / "polls.json"
"""What registries answered last."""

PLANS = RESULTS / "plans"
"""The plans of the last runs, each by its digest."""

PARTS = RESULTS / "parts"
"""The parts of those plans that jobs read, each by its digest."""

RUNS = RESULTS / "runs"
"""The events of the last runs, a directory for each."""

GATES = RESULTS / "gates"
"""What says that the layers of more images may be fetched, by the plan's name."""

STATUS = RESULTS / "status" / "status.json"
"""How all images stand, and the outcome of the last run."""

IMAGES_TABLE = STATUS.with_name("images.tsv")
"""The same as a table, a line an image."""

PAGE = STATUS.with_name("index.html")
"""The same as a page for a browser."""

METRICS = STATUS.with_name("metrics.prom")
"""What node_exporter's textfile collector reads."""

PICTURES = RESULTS / "report"
"""The pictures of `snakemake --report`."""

SEED = RESULTS / "verify.seed"
"""By what a sample is drawn of what is verified, until that is done."""

WATCH_LOCK = RESULTS / "watch.lock"
"""What the watcher holds while it runs."""

HEARTBEAT = RESULTS / "heartbeat.json"
"""What the watcher leaves for who asks whether it is alive."""

REFUSED_THINS = RESULTS / "thin" / "refused"
"""A file for each registry that refused what nobody in particular pushed."""


def content_store() -> ContentStore:
    """Where manifests and configurations are kept between runs."""
    return ContentStore(RESULTS / "manifests")


def blob(key: str) -> tuple[Path, Path]:
    """A layer's blob: while `fetch_blob` downloads it, and when it is there."""
    return RESULTS / "blobs" / f"{key}.part", RESULTS / "blobs" / key


def staged_layer(repository: str, key: str) -> Path:
    """A layer that `unpack_layer` made."""
    return RESULTS / repository / "layers" / key / "layer"


def partial_layer(repository: str, key: str) -> Path:
    """A layer as long as it is being unpacked, by this job and no other.

    Not in the job's output: that of a job which was cut off Snakemake removes by itself, and
    does nothing else for seconds.  A job on a machine that was given up for lost may still
    be at it when the next one begins.
    """
    return RESULTS / repository / "partial" / f"{key}.{secrets.token_hex(4)}"


def staged_flat_tree(repository: str, key: str) -> Path:
    """What `flatten_image` made."""
    return RESULTS / repository / "flat" / key / "image"


def made_by(job: JobName) -> Path | None:
    """The output of a job that stages something."""
    match job.rule:
        case Rule.FETCH_BLOB:
            return blob(job.wildcards[0])[1]
        case Rule.UNPACK_LAYER:
            return staged_layer(*job.wildcards).parent
        case Rule.FLATTEN_IMAGE:
            return staged_flat_tree(*job.wildcards).parent
    return None


def staged() -> Iterator[Path]:
    """All blobs, layers and flat trees that jobs made, by their keys."""
    for pattern in ("*/layers/*", "*/flat/*", "blobs/*"):
        yield from RESULTS.glob(pattern)


def partial_layers() -> Iterator[Path]:
    """All layers that are being unpacked, or were when their jobs were cut off."""
    return RESULTS.glob("*/partial/*")


def known_content(repository: str) -> Path:
    """What content the repository is known to have (`duccmake.cvmfs.known`)."""
    return RESULTS / repository / "known.sqlite"


def published(repository: str, image: str, key: str) -> Path:
    """The receipt of an image that was published."""
    return RESULTS / repository / "published" / image / f"{key}.json"


def receipt(repository: str, kind: str, key: str) -> Path:
    """The receipt of what was removed from a repository: pruned, refused or collected."""
    return RESULTS / repository / kind / f"{key}.json"


def verified(repository: str, key: str) -> Path:
    """What was found in a part of a repository that was verified."""
    return RESULTS / repository / "verified" / f"{key}.json"


def verdict(repository: str) -> Path:
    """What is known to be damaged in a repository."""
    return RESULTS / repository / "verify.json"


def problem(number: int) -> Path:
    """What a job leaves that reported a problem."""
    return RESULTS / "problems" / str(number)


def thin_manifest(repository: str, image: str, key: str) -> Path:
    """The manifest of a thin image, once it is pushed."""
    return RESULTS / "thin" / repository / image / f"{key}.thin.json"


def signed(repository: str) -> Path:
    """Which images of a repository satisfy a signature policy that came after them."""
    return RESULTS / repository / "signed.json"


def memory(repository: str, name: str) -> Path:
    """What was found in a repository and need not be looked for again, as lines of JSON."""
    return RESULTS / repository / f"{name}.jsonl"
