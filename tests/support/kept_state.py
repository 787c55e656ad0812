"""What is kept of images beside a repository, as tests look at it and change it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from duccmake.state.model import State
from duccmake.state.store import FILE, load
from support.runs import Work


def file_of(work: Work) -> Path:
    """The file that has it."""
    return work.repository.own_directory / FILE


def state_of(work: Work) -> State:
    """All that is kept."""
    return load(work.repository.own_directory)


def let_pauses_end(work: Work) -> None:
    """Have all that is held be due, as if its time had come."""
    with closing(sqlite3.connect(file_of(work))) as connection, connection:
        connection.execute("UPDATE failures SET next = 1.0")


def document_of(work: Work) -> dict[str, Any]:
    """The document of the last run."""
    found: dict[str, Any] = json.loads((work.path / "results/status/status.json").read_bytes())
    return found
