"""Run a function as another user, in a fork that needs to read no file of the interpreter's."""

from __future__ import annotations

import importlib
import multiprocessing.popen_fork  # noqa: F401  (imported late by what starts processes)
import os
import pickle
import pkgutil
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, FrozenImporter
from typing import Any

import duccmake


def run_as(user: int, function: Callable[[], Any]) -> Any:
    """What ``function`` returns as the user and group of that number; needs root.

    That user may not reach Python's files, as where they lie below root's home: nothing is
    imported any more.  All of duccmake is there, and what else ``function`` imports has to be.
    """
    for module in pkgutil.walk_packages(duccmake.__path__, "duccmake."):
        importlib.import_module(module.name)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            sys.meta_path[:] = [BuiltinImporter, FrozenImporter]
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            answer = (True, function())
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(writing, "wb") as out:
            pickle.dump(answer, out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        worked, value = pickle.load(answers)
    os.waitpid(child, 0)
    assert worked, value
    return value
