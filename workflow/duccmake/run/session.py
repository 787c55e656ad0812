"""The start of a run: configuration, plan, and what lies in the way of a true picture."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.configuration import Config
from ..config.schema import as_plain
from ..errors import ConfigError, DuccmakeError
from ..fs.files import remove_tree
from ..planning.plan import Plan
from ..planning.planner import make_plan
from ..workspace import run_lock
from ..workspace.results import GATES, PLANS, RUNS, published, staged
from ..workspace.results import problem as problem_receipt
from .status import of_failure

logger = logging.getLogger(__name__)

_KEPT_RUNS = 20

_WITHOUT_POLL = frozenset({"--lint", "--unlock", "--list-rules", "--list", "-l"})
"""Calls of Snakemake that need no image: they ask no registry."""

_PREVIEWS = frozenset(
    {"--dry-run", "--dryrun", "--summary", "-S", "--detailed-summary", "-D", "--report"}
    | {"--dag", "--rulegraph", "--filegraph", "--d3dag"}
    | {"--list-input-changes", "--list-params-changes", "--list-code-changes"}
)
_SHORT_PREVIEW = re.compile(r"-[A-Za-z]*n[A-Za-z]*")
"""Options in one word, of which ``-n`` is one."""


@dataclass(frozen=True, slots=True)
class Session:
    """What the main process hands to its jobs: the plan's file and a directory for events.

    ``polled`` says whether registries were asked, without which the plan is empty, and
    ``preview`` whether the call only shows something, such as a dry run.
    ``began`` is by the monotonic clock; ``lock`` shows others that this process runs.
    """

    plan: Plan
    plan_file: Path
    run: Path
    polled: bool
    preview: bool
    began: float
    lock: AbstractContextManager[object]


def begin(members: Mapping[str, Any], *, workdir: Path, arguments: Sequence[str]) -> Session:
    """Parse the configuration, make the plan and save it.

    Runs for a dry run as well, and so changes nothing that counts: it writes the
    plan and what is remembered of registries, and takes away receipts of what a
    repository no longer holds.  Raises `ConfigError` and `RecipeError`.
    """
    began = time.monotonic()
    _log_to_terminal()
    poll = not _WITHOUT_POLL.intersection(arguments)
    preview = not poll or is_preview(arguments)
    try:
        config = Config.parse(members, workdir=workdir)
        root = config.repository.root if config.repository.backend == "directory" else Path()
        _check_root(root)
        plan = make_plan(config, as_plain(members), poll=poll)
        if plan.wanted and not preview:
            _check_root(root, by_writing=True)
    except DuccmakeError as error:
        if not preview:
            of_failure(error, time.monotonic() - began).save(workdir)
        raise
    # From here on: what cannot be planned leaves nothing behind.
    lock = run_lock.hold(workdir) if poll else nullcontext()
    plan_file = plan.save()
    if not poll:
        # It knows no image: the newest plan, which people are shown, stays another one.
        os.utime(plan_file, (0, 0))
    _remove_stale_receipts(plan)
    run = RUNS / f"{plan_file.stem[:12]}-{os.getpid()}"
    return Session(plan, plan_file, run, poll, preview, began, lock)


def _check_root(root: Path, *, by_writing: bool = False) -> None:
    """Raise `ConfigError` where nothing can be in the place of repositories, or be made there."""
    there = next(path for path in (root, *root.parents) if path.exists())
    try:
        if by_writing:
            tempfile.TemporaryDirectory(prefix=".duccmake-", dir=there).cleanup()
        else:
            os.close(os.open(there, os.O_PATH | os.O_DIRECTORY))
    except OSError as error:
        raise ConfigError(
            f"repository.root: nothing can be made in {there}: {error.strerror}",
            hint="name a directory of yours, or one that can be made",
        ) from None


def is_preview(arguments: Sequence[str]) -> bool:
    """Whether a command line has Snakemake show something and run no job."""
    options = (word.partition("=")[0] for word in arguments)
    return any(word in _PREVIEWS or _SHORT_PREVIEW.fullmatch(word) for word in options)


def tidy(plan: Plan, session_plan: Path) -> None:
    """Remove what earlier runs left and this one has no use for; call it when jobs start.

    Staged layers, flat trees and blobs of images that were given up, events and
    plans of old runs.  Not for dry runs, and only under Snakemake's own lock.
    """
    wanted = {plan.key(layer.digest) for image in plan.wanted for layer in image.layers}
    wanted |= {plan.flat_key(image) for image in plan.wanted}
    for path in list(staged()):
        if path.name.strip(".").partition(".")[0] not in wanted:
            _remove(path)
    for path in GATES.glob("*"):
        if path.name != session_plan.stem[:12]:
            _remove(path)
    for directory in (PLANS, RUNS):
        paths = sorted(directory.glob("*"), key=lambda path: path.stat().st_mtime)
        for path in paths[:-_KEPT_RUNS]:
            if path != session_plan:
                _remove(path)


def _remove(path: Path) -> None:
    logger.info("removing %s of an earlier run", path)
    remove_tree(path)


def boot_id() -> str:
    """Names this boot of the machine: what was staged before a power failure may be torn."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _remove_stale_receipts(plan: Plan) -> None:
    """Remove receipts of pending images: the repository, which knows, does not have them.

    A job writes its receipt after publishing.  Whoever sees a receipt and finds the
    image missing afterwards knows that it was lost or replaced since.
    """
    for image in plan.wanted:
        key = plan.key(image.manifest)
        published(image.repository, image.name, key).unlink(missing_ok=True)
    for thin in plan.thins:
        thin.output.unlink(missing_ok=True)
    for problem in plan.problems:
        problem_receipt(problem.number).unlink(missing_ok=True)


def _log_to_terminal() -> None:
    # Standard output belongs to Snakemake, which prints graphs there.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("duccmake: %(message)s"))
    logger = logging.getLogger("duccmake")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
