"""Which images are converted again because somebody asks for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from ..errors import InvalidReference
from ..oci.globs import matches
from ..oci.reference import Reference


class Anew:
    """The images that ``globs`` over names ask for, each image's name as wish lists have it.

    All of them get one stamp, by which their records tell that it was done: a run that
    goes on elsewhere, or a commit that is tried twice, does it once.
    """

    def __init__(self, globs: Sequence[str]) -> None:
        self._globs = {_name(glob): glob for glob in globs}
        self._matched: set[str] = set()
        self._stamp = f"{time.time():.3f}"

    def stamp(self, reference: Reference) -> str:
        """The stamp for an image that is asked for; empty for others."""
        found = {glob for glob in self._globs if matches(glob, reference.name)}
        self._matched |= found
        return self._stamp if found else ""

    @property
    def unmatched(self) -> list[str]:
        """What was asked for and is not wished for, as it was written."""
        return [glob for name, glob in self._globs.items() if name not in self._matched]


def _name(glob: str) -> str:
    """The name as images have it, where one is written in full, however it is spelled."""
    with suppress(InvalidReference):
        return Reference.parse(glob).name
    return glob
