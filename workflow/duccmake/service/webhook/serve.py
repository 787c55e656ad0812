"""Serving the application with uvicorn."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence

import uvicorn

from ...config.settings import WebhookSecrets
from ...errors import DuccmakeError
from ...workspace.event_log import EventLog
from ..invocation import Invocation, log_to_stderr
from ..notices import NoticeQueue
from .app import Listener
from .coverage import WishLists
from .formats import READERS
from .secrets import read_secrets
from .sockets import open_sockets

logger = logging.getLogger(__name__)

DESCRIPTION = f"""\
Hear what registries say of pushed and deleted images: POST to /SENDER, one of
{", ".join(READERS)}.
Images of the wish list wake the watcher. GET /status/ shows how all images stand. Put it behind
a proxy."""


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
        queue = NoticeQueue(config.webhook.spool)
        queue.prepare()
        sockets = open_sockets(config.webhook.listen)
    except (DuccmakeError, OSError) as error:
        logger.error("%s", error)
        return 1
    if open_ones := [name for name in WebhookSecrets.__slots__ if name not in secrets]:
        logger.warning("no secret for %s: anybody may call these", ", ".join(open_ones))
    listener = Listener(
        WishLists(config),
        queue,
        secrets,
        max_bytes=config.webhook.max_bytes,
        events=EventLog(config.events),
    )
    server = uvicorn.Server(
        uvicorn.Config(
            listener.application(),
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
