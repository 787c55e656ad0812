"""Operating system errors as duccmake's own, with the image and the step they met."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DuccmakeError, NoSpace, RepositoryError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def reported(step: str, image: str = "") -> Iterator[None]:
    """Raise `NoSpace` or `RepositoryError` for an `OSError`; say image and step in each error."""
    try:
        yield
    except DuccmakeError as error:
        error.within(image=image, step=step)
        raise
    except OSError as error:
        where = f" ({_text(error.filename)})" if error.filename is not None else ""
        if error.errno in FULL:
            raise NoSpace(
                f"no space is left for the repository{where}",
                image=image,
                step=step,
                hint="free some space or raise the quota, then run again",
            ) from error
        raise RepositoryError(
            f"{error.strerror or error}{where}", image=image, step=step
        ) from error


def _text(name: object) -> str:
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
