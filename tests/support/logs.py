"""Waiting for what the package logs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def told(words: str) -> Iterator[threading.Event]:
    """An event that is set as soon as ``words`` are logged."""
    event = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                event.set()

    listener = Listener()
    logging.getLogger("duccmake").addHandler(listener)
    try:
        yield event
    finally:
        logging.getLogger("duccmake").removeHandler(listener)
