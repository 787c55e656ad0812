"""Serving the application with uvicorn."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence

import uvicorn

from ...config.configuration import Config
from ...config.settings import WebhookSecrets
from ...errors import DuccmakeError
from ...run.whereabouts import Whereabouts
from ...workspace.event_log import EventLog
from ..invocation import Invocation, log_to_stderr
from ..notices import NoticeQueue
from .app import Listener
from .callers import Callers, Rate, Secret, read_tokens
from .conversions import Conversions
from .convert import ConvertApi, Rules
from .coverage import WishLists
from .formats import READERS
from .health import Counted, Health
from .secrets import read_secrets
from .sockets import open_sockets
from .stream import Streams

logger = logging.getLogger(__name__)

DESCRIPTION = f"""\
Hear what registries say of pushed and deleted images: POST to /SENDER, one of
{", ".join(READERS)}.
Images of the wish list wake the watcher. Pipelines ask for images at POST /convert. GET /status/
shows how all images stand, /health and /metrics how the service does. Put it behind a proxy."""


def main(arguments: Sequence[str]) -> int:
    """Listen until SIGTERM; returns the exit status."""
    log_to_stderr("duccmake-webhook")
    invocation = Invocation.parse(arguments, program="webhook.py", description=DESCRIPTION)
    if invocation.rest:
        logger.error("unknown option %s; --help says what there is", invocation.rest[0])
        return 2
    try:
        os.chdir(invocation.directory)
        config = invocation.configuration()
        secrets = read_secrets(config.webhook.secrets)
        tokens = read_tokens(config.webhook.convert)
        queue = NoticeQueue(config.webhook.spool)
        queue.prepare()
        application = assembled(config, queue, secrets, tokens, lambda: server.should_exit)
        sockets = open_sockets(config.webhook.listen)
    except (DuccmakeError, OSError) as error:
        logger.error("%s", error)
        return 1
    if open_ones := [name for name in WebhookSecrets.__slots__ if name not in secrets]:
        logger.warning("no secret for %s: anybody may call these", ", ".join(open_ones))
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=256,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=20,
            lifespan="off",
        )
    )
    logger.info("listening at %s, leaving notices in %s", config.webhook.listen, queue.new)
    # It raises the signal that ended it once more; to be told to stop is no failure.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    server.run(sockets)
    return 0 if server.started else 1


def assembled(
    config: Config,
    queue: NoticeQueue,
    secrets: Mapping[str, str],
    tokens: Sequence[Secret],
    stopping: Callable[[], bool],
) -> Counted:
    """The whole application, for the working directory that this process is in."""
    convert = config.webhook.convert
    wished, events, whereabouts = WishLists(config), EventLog(config.events), Whereabouts()
    streams = Streams(stopping)
    health = Health(queue, whereabouts, lambda: streams.number)
    routes = health.routes()
    if convert.tokens or convert.issuers:
        conversions = Conversions(config.webhook.spool / "asked")
        conversions.prepare()
        rules = Rules(
            Callers(tokens, convert.issuers),
            Rate(convert.requests_a_minute),
            convert.url.rstrip("/"),
        )
        api = ConvertApi(rules, wished, queue, conversions, whereabouts, streams, events)
        routes += api.routes()
    listener = Listener(
        wished, queue, secrets, max_bytes=config.webhook.max_bytes, events=events, others=routes
    )
    return Counted(listener.application(), health.answers)
