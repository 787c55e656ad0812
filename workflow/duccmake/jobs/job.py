"""What every job of the workflow has around it: the plan, a log, and a way to fail.

A job that fails says why in one line of its log and leaves an event for the
run's summary.  Where all images that a job serves are covered by
``ignoreErrors``, the failure is handed on through the job's output instead, so
that it does not fail the run.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property, lru_cache
from pathlib import Path

from ..config.configuration import Config
from ..errors import DuccmakeError, Fault, one_line
from ..fs import locks
from ..fs.files import remove_tree, write_atomically
from ..planning.model import PlannedImage
from ..planning.plan import Plan
from ..products import Product
from ..repository.failures import FULL
from ..workspace import run_lock
from ..workspace.event_log import Action, EventLog
from ..workspace.reports import WAITING, WRITERS, JobName, Kind, Report, Rule, write_report

PLAN_VARIABLE = "DUCCMAKE_PLAN"
"""The environment variable that names the plan's file to jobs."""

RUN_VARIABLE = "DUCCMAKE_RUN"
"""The environment variable that names the directory for the run's events."""

_FAILURE = "failure.json"
_FAILURE_MARK = b'{"duccmake-failure": '

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def load_plan(path: Path) -> Plan:
    """The plan in that file, whose name says what is in it."""
    return Plan.load(path)


@lru_cache(maxsize=1)
def load_config(path: Path, workdir: Path) -> Config:
    """The configuration that the plan in that file was made with."""
    return load_plan(path).config_in(workdir)


class Job:
    """One job: the plan and configuration it works by, and what it reports."""

    def __init__(self, name: JobName, workdir: Path, log: str) -> None:
        self.name = name
        self._log = log
        self._workdir = workdir
        self._plan_file = Path(os.environ[PLAN_VARIABLE])
        plan = load_plan(self._plan_file)
        # What is removed, or left, depends on all images.
        self.plan = plan.in_full() if name.rule in WRITERS - {Rule.PUBLISH_IMAGE} else plan
        self._run = Path(os.environ[RUN_VARIABLE])
        self.ignorable = False
        self.serving = ""

    @cached_property
    def config(self) -> Config:
        """The configuration that the plan was made with."""
        return load_config(self._plan_file, self._workdir)

    @cached_property
    def events(self) -> EventLog:
        """The event log."""
        return EventLog(self.config.events, run=self._run.name)

    @property
    def damaged(self) -> Path:
        """Where the run's jobs note what registries sent damaged."""
        return self._run / "damaged"

    def serves(self, images: Iterable[PlannedImage]) -> None:
        """Say which images the job is for: it may fail quietly if that is so for all."""
        served = list(images)
        self.ignorable = all(image.ignorable for image in served)
        others = f" (and {len(served) - 1} more)" if len(served) > 1 else ""
        self.serving = served[0].title + others

    def blame(self, error: DuccmakeError) -> DuccmakeError:
        """Name the images that the job is for, where the error names none."""
        return error.within(image=self.serving)

    def check_inputs(self, paths: Iterable[str]) -> None:
        """Raise the failure that a job before this one handed on, if one did.

        A job that must not fail quietly takes it out of the way as well: whoever
        handed it on, in an earlier run, is asked again in the next one.
        """
        for path in map(Path, paths):
            failure = _handed_on(path)
            if failure is None:
                continue
            if not self.ignorable:
                remove_tree(path)
            raise DuccmakeError(**failure)

    def report(self, report: Report) -> None:
        """Leave a report for the run's summary."""
        write_report(self._run, report)

    def fail(self, title: str, words: str, fault: Fault = Fault.OTHER) -> None:
        """Leave word of a failure; where the disk has no room for it, on the terminal."""
        report = Report(self.name, Kind.FAILED, title, words, log=self._log, fault=fault)
        try:
            self.report(report)
        except OSError:
            line = words.removeprefix(f"{report.title}: ")
            sys.stderr.write(f"failed  {report.title}  {line}\n")

    def published(self, image: PlannedImage) -> None:
        """Enter into the event log what is visible now: the image, and its new layers."""
        missing = self.plan.missing.get(image.repository, frozenset())
        for digest in dict.fromkeys(layer.digest for layer in image.layers):
            if digest in missing:
                self.events.emit(Action.PUBLISH_LAYER, image=image.name, layer_digest=digest.hex)
        if Product.FLAT in image.products:
            self.events.emit(
                Action.PUBLISH_FLAT_IMAGE,
                image_request=image.reference,
                image=image.name,
                repository=image.repository,
                public_path=image.name,
                private_path=f".flat/{image.config.prefix}/{image.config.hex}",
            )


@contextmanager
def running(rule: Rule, *wildcards: str, log: str, output: str = "") -> Iterator[Job]:
    """Run the work of a rule's job; ``output`` is what carries a quiet failure.

    Ends the process with status 1 when the work raises.  SIGTERM ends it as well, but not
    once it has begun to write to a repository.
    """
    _log_to(Path(log))
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `start` leaves it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if rule in WRITERS:
        signal.signal(signal.SIGTERM, _end_unless_writing)
    name, workdir = JobName(rule, wildcards), Path.cwd()
    works = nullcontext() if rule == Rule.OPEN_GATE else run_lock.hold(workdir, run_lock.WORK_LOCK)
    with run_lock.hold(workdir), works:
        job = Job(name, workdir, log)
        try:
            yield job
        except DuccmakeError as error:
            logger.error("%s", job.blame(error))
            job.fail(error.image, str(error), error.fault)
            if not job.ignorable:
                sys.exit(1)
            _hand_on(Path(output), error)
        except KeyboardInterrupt:
            # All that runs hears of Control-C, and the run itself says so.
            logger.error("interrupted")
            sys.exit(128 + signal.SIGINT)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                words, fault = (
                    f"no space is left in {workdir}: make room and run again",
                    Fault.SPACE,
                )
            else:
                logger.exception("this is a defect of duccmake, please report it")
                words = f"a defect of duccmake: {error!r}; please report it, with {log}"
                fault = Fault.OTHER
            job.fail(job.serving, words, fault)
            sys.exit(1)


def _end_unless_writing(number: int, frame: object) -> None:
    """End by a signal; what writes is finished, and what was written noted, before that counts."""
    if not locks.must_finish():
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    logging.getLogger(WAITING).addHandler(_AtOnce())
    logging.raiseExceptions = False  # a full disk is told of once, by who needs it


class _AtOnce(logging.Handler):
    """Says something on the terminal, where a line of progress may stand."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is None:
            return
        has_progress = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        over = "\r\x1b[K" if has_progress else ""
        with suppress(OSError):
            sys.stderr.write(f"{over}duccmake: {one_line(record.getMessage())}\n")


# --- failures that do not fail the run ----------------------------------


def _hand_on(output: Path, error: DuccmakeError) -> None:
    members = ("found", "image", "step", "hint", "fault")
    failure = {name: getattr(error, name) for name in members}
    content = _FAILURE_MARK + json.dumps(failure).encode() + b"}\n"
    if output.suffix == ".json" or output.parent.name == "blobs":
        write_atomically(output, content)
    else:
        write_atomically(output / _FAILURE, content)


def _handed_on(path: Path) -> Mapping[str, str] | None:
    """What `_hand_on` wrote into a job's output, if it did."""
    file = path / _FAILURE if path.is_dir() else path
    try:
        with file.open("rb") as content:
            if content.read(len(_FAILURE_MARK)) != _FAILURE_MARK:
                return None
            failure: dict[str, str] = json.loads(content.read().rstrip()[:-1])
            if "mend" in failure:  # as earlier versions called it
                failure["hint"] = failure.pop("mend")
            return failure
    except FileNotFoundError:
        return None
