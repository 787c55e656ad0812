"""``POST /convert``: a pipeline asks for an image that it has pushed, and follows it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...errors import InvalidReference
from ...oci.reference import Digest, Reference
from ...run.whereabouts import Progress, Running, State, Waiting, Whereabouts
from ...workspace.event_log import EventLog
from ..heartbeat import Heartbeat
from ..notices import Notice, NoticeQueue, QueueFull
from .callers import Caller, Callers, Rate
from .conversions import Conversion, Conversions
from .coverage import WishLists
from .refusal import Refusal, read_body
from .stream import Streams

logger = logging.getLogger(__name__)

SENDER = "convert"

_MAX_BYTES = 16384
_NOT_KEPT = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may ask, how often, and by which address the world reaches the service.

    That is empty where nobody said.
    """

    callers: Callers
    rate: Rate
    url: str


class ConvertApi:
    """The routes: who asks is known by a token, and what is asked for by an address.

    That is an address that nobody can guess: whom it was given may read it, so that a pipeline
    need not keep a token for as long as it waits.
    """

    def __init__(
        self,
        rules: Rules,
        wished: WishLists,
        queue: NoticeQueue,
        conversions: Conversions,
        whereabouts: Whereabouts,
        streams: Streams,
        events: EventLog,
    ) -> None:
        self._rules = rules
        self._wished = wished
        self._queue = queue
        self._conversions = conversions
        self._whereabouts = whereabouts
        self._streams = streams
        self._events = events

    def routes(self) -> list[Route]:
        """The routes, with a slash behind them or none."""
        return [
            route
            for slash in ("", "/")
            for route in (
                Route(f"/convert{slash}", self._ask, methods=["POST"]),
                Route(f"/convert/{{identity:str}}{slash}", self._tell, methods=["GET"]),
            )
        ]

    # --- asking -------------------------------------------------------------

    async def _ask(self, request: Request) -> Response:
        try:
            body = await read_body(request, _MAX_BYTES)
            authorization = request.headers.get("authorization", "")
            caller = await run_in_threadpool(self._rules.callers.identify, authorization)
            self._rules.rate.count(caller.name)
            identity, progress = await run_in_threadpool(self._keep, caller, _members(body))
        except Refusal as refusal:
            return refusal.answer()
        address = f"{self._rules.url}/convert/{identity}"
        content = {**_shown(progress), "progress": address}
        return JSONResponse(content, 202, {**_NOT_KEPT, "Location": address})

    def _keep(self, caller: Caller, members: Mapping[str, Any]) -> tuple[str, Progress]:
        """Keep what is asked for, and leave a notice if there is anything to do."""
        name, digest = self._named(caller, members)
        try:
            identity = self._conversions.put(name, digest)
            found = self._find(identity)
            if found is None or found.state is not State.VISIBLE:
                try:
                    is_new = self._queue.put(Notice(name, "push", SENDER))
                except BaseException:
                    self._conversions.drop(identity)
                    raise
                if is_new:
                    self._events.emit("receive_notice", image=name, sender=SENDER, notice="push")
        except (QueueFull, OSError) as error:
            logger.error("a request of %s could not be kept: %s", caller.name, error)
            raise Refusal(503, "cannot be kept now", {"Retry-After": "30"}) from None
        logger.info("%s asks for %s %s", caller.name, name, digest)
        return identity, found or Progress(name, digest, State.QUEUED)

    def _named(self, caller: Caller, members: Mapping[str, Any]) -> tuple[str, str]:
        """The image by its name in the wish list, and the digest that is asked for, if any."""
        reference, digest = _parsed(members)
        names = self._wished.names(reference)
        if not names and reference.tag and reference.digest is not None:
            reference, digest = replace(reference, digest=None), str(reference.digest)
            names = self._wished.names(reference)
        if names is None:
            raise Refusal(503, "no wish list can be read now", {"Retry-After": "60"})
        allowed = [name for name in names if caller.may_ask_for(name)]
        if not allowed:
            logger.warning("refused %s of %s", reference.name, caller.name)
            # Who may not ask for an image does not hear whether somebody wishes for it.
            raise Refusal(
                403, f"no wish list has {reference.name}, or this token may not ask for it"
            )
        return allowed[0], digest

    # --- telling ------------------------------------------------------------

    async def _tell(self, request: Request) -> Response:
        identity = request.path_params["identity"]

        def look() -> Mapping[str, Any] | None:
            found = self._find(identity)
            return _shown(found) if found else None

        found = await run_in_threadpool(look)
        if found is None:
            return Refusal(404, "nothing was asked for by this address, or long ago").answer()
        if "text/event-stream" not in request.headers.get("accept", "").lower():
            return JSONResponse(found, headers=_NOT_KEPT)
        try:
            return self._streams.answer(request, identity, found, look)
        except Refusal as refusal:
            return refusal.answer()

    def _find(self, identity: str) -> Progress | None:
        """How far it is; once it has been visible, that."""
        conversion = self._conversions.get(identity)
        if conversion is None:
            return None
        if conversion.visible is not None:
            return conversion.visible
        found = self._look(conversion)
        if found.state is State.VISIBLE:
            self._conversions.note(identity, conversion, found)
        return found

    def _look(self, conversion: Conversion) -> Progress:
        asked = conversion.asked
        beat = Heartbeat.load()
        is_running = beat is not None and beat.is_fresh and beat.run != 0
        run = Running(beat.run, beat.began) if beat and is_running else None
        waiting = Waiting(self._queue.stands(Notice(asked.name, "push")))
        found = self._whereabouts.look(asked, waiting, run)
        if found.state is State.QUEUED and not (beat is not None and beat.is_fresh):
            return replace(found, reason="the watcher, which converts, does not run")
        return found


def _members(body: bytes) -> Mapping[str, Any]:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise Refusal(400, 'not JSON like {"image": "registry/repository:tag", "digest": "..."}')
    return members


def _parsed(members: Mapping[str, Any]) -> tuple[Reference, str]:
    """The image, and the digest that is asked for, where that is a member of its own."""
    image, digest = members.get("image"), members.get("digest") or ""
    try:
        reference = Reference.parse(image)
        if digest:
            digest = str(Digest.parse(digest))
        if reference.is_local or reference.is_glob:
            raise InvalidReference("an image has a registry and one tag")
    except InvalidReference as error:
        raise Refusal(400, str(error)[:500]) from None
    return reference, digest


def _shown(progress: Progress) -> dict[str, Any]:
    """The progress as JSON has it."""
    return asdict(progress)
