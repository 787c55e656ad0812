"""The start of a run: configuration, plan, and what lies in the way of a true picture."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TextIO

from ..config.configuration import Config
from ..config.mistakes import InvalidConfig
from ..config.schema import as_plain
from ..errors import ConfigError, DuccmakeError, NoSpace
from ..fs.files import remove_tree
from ..planning.parts import part, slices
from ..planning.plan import Plan
from ..planning.planner import make_plan
from ..planning.repairs import plan_repairs
from ..repository.failures import FULL
from ..words import counted
from ..workspace import run_lock
from ..workspace.event_log import EventSettings
from ..workspace.reports import Kind, read_reports
from ..workspace.results import (
    GATES,
    PARTS,
    PLANS,
    RUNS,
    made_by,
    partial_layers,
    published,
    staged,
)
from ..workspace.results import problem as problem_receipt
from .events import note_failure
from .lines import say
from .maintenance import targets
from .parts import Begun, begun, takes_all
from .report import report_plan
from .status import of_failure

logger = logging.getLogger(__name__)

_KEPT_RUNS = 20

_LONG = 10 * 365 * 86400.0

_BOOKS_BYTES = 256 * 1024
"""So much a run writes at least: its plan, reports, logs, and what Snakemake notes."""

_WITHOUT_POLL = frozenset({"--lint", "--unlock", "--list-rules", "--list", "-l"})
"""Calls of Snakemake that need no image: they ask no registry."""

_GRAPHS = frozenset({"--dag", "--rulegraph", "--filegraph", "--d3dag"})

_DRAWN = 20
"""Of so many published images a graph is drawn, where nothing is pending."""

_SKETCHED = 50
"""Of so many images at most Snakemake makes jobs where nobody sees them."""

_PREVIEWS = frozenset(
    {"--dry-run", "--dryrun", "--summary", "-S", "--detailed-summary", "-D"}
    | _GRAPHS
    | {"--list-input-changes", "--list-params-changes", "--list-code-changes"}
)
_SHORT_PREVIEW = re.compile(r"-[A-Za-z]*n[A-Za-z]*")
"""Options in one word, of which ``-n`` is one."""


@dataclass(frozen=True, slots=True)
class Session:
    """What the main process hands to its jobs: the plan's file and a directory for events.

    ``polled`` says whether registries were asked, without which the plan is empty, ``reports``
    whether it shows what earlier runs made (`.report`), and ``preview`` whether the call only
    shows something, such as a dry run.  ``began`` is by the monotonic clock and ``seen`` the time
    then; ``lock`` shows others that this process runs.  Snakemake goes through ``parts`` of the
    plan one by one, of which this is the one of that ``number``; ``has_failed`` says whether
    something did in those before.
    """

    plan: Plan
    plan_file: Path
    run: Path
    polled: bool
    preview: bool
    began: float
    seen: float
    lock: IO[bytes] | nullcontext[None]
    parts: int = 1
    number: int = 0
    has_failed: bool = False
    reports: bool = False

    def next_part(self, has_failed: bool) -> Begun | None:
        """What is to be gone on with when this part has ended; None where it is the last."""
        if self.number + 1 >= self.parts:
            return None
        place = str(self.plan_file), str(self.run)
        return Begun(os.getpid(), *place, self.began, self.seen, self.number + 1, has_failed)

    def part(self, workdir: Path, *, is_seen: bool = True) -> Path:
        """The file of the plan that jobs of this part read.

        It has a few images alone where nobody sees the jobs that Snakemake makes of it, as in most
        dry runs: what there is to do is known from the plan.
        """
        limit = _limit(self.plan, workdir) if self.parts > 1 or not is_seen else 0
        if not is_seen:
            limit = min(limit or _SKETCHED, _SKETCHED)
        config = self.plan.config_in(workdir)
        made = part(self.plan, self.plan_file, self.number, limit, config)
        return made.save(PARTS if self.polled else RUNS)


def begin(
    members: Mapping[str, Any],
    *,
    workdir: Path,
    arguments: Sequence[str],
    given: Mapping[str, Any] | None = None,
) -> Session:
    """Parse the configuration, make the plan and save it; ``--config`` has ``given`` some of it.

    Runs for a dry run as well, and so changes nothing that counts: it writes the
    plan and what is remembered of registries, and takes away receipts of what a
    repository no longer holds.  Raises `ConfigError` and `RecipeError`.
    """
    began, seen = time.monotonic(), time.time()
    _log_to_terminal()
    earlier = begun()
    if earlier is not None:
        return _resumed(earlier, workdir)
    if is_report(arguments):
        made = report_plan(workdir)
        file = made.save(RUNS)
        run = RUNS / f"{file.stem[:12]}-{os.getpid()}"
        return Session(made, file, run, False, True, began, seen, nullcontext(), reports=True)
    poll = not _WITHOUT_POLL.intersection(arguments)
    preview = not poll or is_preview(arguments)
    if not preview and is_full(workdir):
        # Nor is there room for what would tell of it.
        raise NoSpace(f"no space is left in {workdir}", hint="make room and run again")
    with nullcontext() if preview else _told(members, workdir):
        try:
            config = Config.parse(members, workdir=workdir)
        except InvalidConfig as error:
            raise error.told_of(given or {}) from None
        root = config.repository.root if config.repository.backend == "directory" else Path()
        _check_root(root)
        asked = targets(arguments)
        if not asked.isdisjoint(("repair", "verify")):
            # What is published is the matter, and what its tags stand for is not.
            config = replace(config, resolve=replace(config.resolve, max_age=_LONG))
        plan = make_plan(config, as_plain(members), poll=poll)
        if "repair" in asked:
            plan = plan_repairs(plan, config)
        is_drawn = _has_option(arguments, _GRAPHS) and not plan.wanted
        if is_drawn:
            plan = _drawn(config, as_plain(members))
        if plan.wanted and not preview:
            _check_root(root, by_writing=True)
        # From here on: what cannot be planned leaves nothing behind.
        lock = run_lock.hold(workdir) if poll else nullcontext()
        # What nobody was asked for is no picture of how images stand.
        plan_file = plan.save(PLANS if poll else RUNS)
    if not is_drawn:
        _remove_stale_receipts(plan)
    run = RUNS / f"{plan_file.stem[:12]}-{os.getpid()}"
    is_whole = bool(targets(arguments)) or takes_all(arguments)
    parts = 1 if is_whole else len(slices(plan, _limit(plan, workdir)))
    return Session(plan, plan_file, run, poll, preview, began, seen, lock, parts)


def _resumed(run: Begun, workdir: Path) -> Session:
    """The session of a run that this process has begun: nobody is asked anew."""
    plan_file = Path(run.plan_file)
    plan = Plan.load(plan_file)
    parts = len(slices(plan, _limit(plan, workdir)))
    lock = run_lock.hold(workdir)
    times, more = (run.began, run.seen), (parts, run.number)
    return Session(
        plan, plan_file, Path(run.run), True, False, *times, lock, *more, has_failed=run.has_failed
    )


def _limit(plan: Plan, workdir: Path) -> int:
    return plan.config_in(workdir).limits.run_images


_TIMESTAMP = ".snakemake_timestamp"
"""Whose time Snakemake takes for that of the directory that it is in."""


def is_full(workdir: Path = Path()) -> bool:
    """Whether a run could not even keep its books in the working directory."""
    try:
        with tempfile.TemporaryFile(dir=workdir) as file:
            file.write(bytes(_BOOKS_BYTES))
            file.flush()
    except OSError as error:
        return error.errno in FULL
    return False


@contextmanager
def _told(members: Mapping[str, Any], workdir: Path) -> Iterator[None]:
    """Have the status and the event log say why the run comes to no images."""
    began = time.monotonic()
    try:
        yield
    except Exception as error:
        known = error if isinstance(error, DuccmakeError) else _in_words(error)
        note_failure(_events(members, workdir), known)
        with suppress(OSError):  # the disk may be full, of which the error tells
            of_failure(known, time.monotonic() - began).save(workdir)
        if isinstance(error, OSError):
            raise known from error
        raise


def _in_words(error: Exception) -> DuccmakeError:
    """What nobody foresaw, as an error that is told in one line."""
    if isinstance(error, OSError):
        name = f": {error.filename}" if error.filename else ""
        return DuccmakeError(
            f"{error.strerror}{name}",
            step="plan",
            hint="see whether the working directory can be written and has room, and run again",
        )
    return DuccmakeError(f"a defect of duccmake, or of its installation: {error!r}", step="plan")


def _events(members: Mapping[str, Any], workdir: Path) -> EventSettings:
    """Where events go, by default if the configuration does not say so itself any more."""
    try:
        return Config.parse(members, workdir=workdir).events
    except DuccmakeError:
        return EventSettings()


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


def is_report(arguments: Sequence[str]) -> bool:
    """Whether a command line has Snakemake make a report, and nothing else."""
    return _has_option(arguments, {"--report"}) and "--report-after-run" not in arguments


def is_preview(arguments: Sequence[str]) -> bool:
    """Whether a command line has Snakemake show something and run no job."""
    return (
        is_report(arguments)
        or _has_option(arguments, _PREVIEWS)
        or any(map(_SHORT_PREVIEW.fullmatch, arguments))
    )


def _has_option(arguments: Sequence[str], options: Collection[str]) -> bool:
    return any(word.partition("=")[0] in options for word in arguments)


def _drawn(config: Config, members: Mapping[str, Any]) -> Plan:
    """The plan to do what is published once more, for a graph when nothing is pending."""
    believing = replace(config.resolve, max_age=3600.0)  # all was asked for a moment ago
    plan = make_plan(replace(config, scope="all", resolve=believing), members)
    images = plan.images[:_DRAWN]
    names = {(image.repository, image.reference.name) for image in images}
    thins = tuple(thin for thin in plan.thins if (thin.repository, thin.name) in names)
    logger.warning(
        "nothing is pending: the graph shows how %d of %s were made",
        len(images),
        counted(len(plan.images), "published image"),
    )
    return replace(plan, images=images, thins=thins)


def tidy(plan: Plan, *in_use: Path) -> None:
    """Remove what earlier runs left and this one has no use for; call it when jobs start.

    The files ``in_use`` are those of its plan, and of the part of that.
    Staged layers, flat trees and blobs that no job makes or reads, such as those of images that
    were given up or that somebody else published, events and plans of old runs.  Not for dry
    runs, and only under Snakemake's own lock, or by `tidy_alone`.
    """
    wanted = {key for image in plan.wanted for key in plan.staged_layers(image)}
    wanted |= {plan.flat_key(image) for image in plan.wanted if not image.prepared}
    for path in list(partial_layers()):
        with suppress(OSError):  # who was given up for lost, on another machine, may be at it
            _remove(path)
    for path in list(staged()):
        if path.name.strip(".").partition(".")[0] not in wanted:
            _remove(path)
    _bring_back_to(time.time_ns())
    for path in GATES.glob("*"):
        if path.name not in {file.stem[:12] for file in in_use}:
            _remove(path)
    for directory in (PLANS, PARTS, RUNS):
        paths = sorted(directory.glob("*"), key=lambda path: path.stat().st_mtime)
        for path in paths[:-_KEPT_RUNS]:
            if path not in in_use:
                _remove(path)


def forget_failures(run: Path) -> None:
    """Remove what jobs that failed left in place of their output, for jobs that needed it.

    At the end of a run, under Snakemake's lock: the next one is to try them again.
    """
    for report in read_reports(run):
        if report.kind == Kind.FAILED and (made := made_by(report.job)):
            remove_tree(made)


def _bring_back_to(now: int) -> None:
    """Have nothing that is staged be of a time to come, after a clock that was wrong.

    Snakemake fails each job whose output is older than what it was made of.
    """
    for path in staged():
        for place in (path / _TIMESTAMP, path):
            with suppress(FileNotFoundError, NotADirectoryError):
                if place.stat().st_mtime_ns > now:
                    os.utime(place, ns=(now, now))


def tidy_alone(session: Session) -> None:
    """The same where there is nothing to do, and no job starts: unless somebody else runs here."""
    if run_lock.is_alone(session.lock):
        tidy(session.plan, session.plan_file)


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


class _Lines(logging.StreamHandler[TextIO]):
    """Writes what is logged as a line for people."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"duccmake: {record.getMessage()}", stream=self.stream)


def _log_to_terminal() -> None:
    # Standard output belongs to Snakemake, which prints graphs there.
    logger = logging.getLogger("duccmake")
    logger.handlers[:] = [_Lines(sys.stderr)]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
