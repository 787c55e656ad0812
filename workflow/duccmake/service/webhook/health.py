"""Whether somebody acts on what is heard: asked by load balancers, and by Prometheus."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...run.metrics import as_text, gauge
from ...run.whereabouts import Whereabouts
from ...workspace.results import METRICS
from ..heartbeat import Heartbeat
from ..notices import NoticeQueue
from .formats import READERS

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_NOT_KEPT = {"Cache-Control": "no-store"}
_ENDPOINTS = frozenset({*READERS, "convert", "status", "health", "healthz", "metrics"})
_OF_RUNS = ("ended", "seconds", "counts", "error")


class Counted:
    """An ASGI application whose ``answers`` are counted, by what they are for and status."""

    def __init__(self, application: ASGIApp, answers: Counter[tuple[str, str]]) -> None:
        self._application = application
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                first = scope["path"].split("/")[1] if "/" in scope["path"] else ""
                endpoint = first if first in _ENDPOINTS else "other"
                self._answers[endpoint, str(message["status"])] += 1
            await send(message)

        await self._application(scope, receive, counting)


class Health:
    """Answers at ``/health`` and ``/metrics``; all paths count from the working directory.

    ``streams`` says how many streams of events are open, and ``answers`` counts what was
    answered.
    """

    def __init__(
        self, queue: NoticeQueue, whereabouts: Whereabouts, streams: Callable[[], int]
    ) -> None:
        self._queue = queue
        self._whereabouts = whereabouts
        self._streams = streams
        self.answers: Counter[tuple[str, str]] = Counter()

    def routes(self) -> list[Route]:
        """The routes, with a slash behind them or none."""
        answers = {"/health": self._health, "/metrics": self._metrics}
        return [
            Route(path + slash, answer, methods=["GET"])
            for path, answer in answers.items()
            for slash in ("", "/")
        ]

    async def _health(self, request: Request) -> Response:
        members, status = await run_in_threadpool(self._look)
        return JSONResponse(members, status, _NOT_KEPT)

    def _look(self) -> tuple[dict[str, Any], int]:
        """How all is, and 503 where nobody would act on what is heard now."""
        beat = Heartbeat.load()
        alive = beat is not None and beat.is_fresh
        waiting, trouble = self._waiting()
        run = self._whereabouts.last_run()
        problems = [trouble] if trouble else []
        if beat is None:
            problems.append("the watcher does not run")
        elif not alive:
            problems.append("the watcher has not been heard of for a while")
        status = 503 if problems else 200
        if error := run.get("error"):
            problems.append(f"the last run came to no images: {error}")
        return {
            "status": "unavailable" if status == 503 else "degraded" if problems else "ok",
            "problems": problems,
            "waiting": waiting,
            "heartbeat": beat.beat if beat else None,
            "next_poll": beat.next_poll if beat and alive else None,
            "last_run": {name: run.get(name) for name in _OF_RUNS} if run else None,
            "current_run": _current(beat) if beat and alive and beat.run else None,
        }, status

    def _waiting(self) -> tuple[int, str]:
        """How many notices wait; and what is wrong, where none could be kept."""
        try:
            waiting = self._queue.waiting()
        except OSError:
            return 0, "notices cannot be read"
        is_writable = os.access(self._queue.new, os.W_OK | os.X_OK)
        return waiting, "" if is_writable else "notices cannot be written"

    async def _metrics(self, request: Request) -> Response:
        found = await run_in_threadpool(self._exposition)
        return Response(found, headers={"Content-Type": CONTENT_TYPE_LATEST, **_NOT_KEPT})

    def _exposition(self) -> bytes:
        """The metrics of the last run, and what is known here."""
        try:
            of_images = METRICS.read_bytes()
        except OSError:
            of_images = b""
        return of_images + as_text(self._own())

    def _own(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        text = "Requests that were answered."
        names = ["endpoint", "status"]
        answered = CounterMetricFamily("duccmake_webhook_requests", text, labels=names)
        for labels, number in sorted(self.answers.items()):
            answered.add_metric(labels, number)
        yield answered
        yield gauge("webhook_notices", "Notices that wait for the watcher.", self._waiting()[0])
        yield gauge("webhook_streams", "Streams of events that are open.", self._streams())
        beat = Heartbeat.load()
        text = "When the watcher was known to be alive."
        yield gauge("watcher_heartbeat_timestamp_seconds", text, beat.beat if beat else 0.0)
        running = beat is not None and beat.is_fresh and beat.run != 0
        yield gauge("watcher_running", "Whether a run of the watcher's is under way.", running)


def _current(beat: Heartbeat) -> dict[str, Any]:
    """The run that is under way."""
    return {"began": beat.began, "jobs": list(beat.jobs)}
