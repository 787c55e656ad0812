"""Globs of wish lists and of the configuration: ``*`` is any text, ``?`` one character.

Nothing else is special, so that a dot is a dot and a bracket a bracket.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

_WILDCARDS = {"*": ".*", "?": "."}


def matches(glob: str, text: str) -> bool:
    """Whether a glob matches a whole text."""
    return any_of(glob).fullmatch(text) is not None


def matching(glob: str, texts: Iterable[str]) -> list[str]:
    """The texts that a glob matches whole, in their order."""
    pattern = any_of(glob)
    return [text for text in texts if pattern.fullmatch(text)]


@functools.lru_cache(maxsize=256)
def any_of(*globs: str) -> re.Pattern[str]:
    """A pattern whose ``fullmatch`` is what one of the globs matches."""
    expressions = (
        "".join(_WILDCARDS.get(char) or re.escape(char) for char in glob) for glob in globs
    )
    return re.compile("|".join(expressions) if globs else r"(?!)", re.DOTALL)
