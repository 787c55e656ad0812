"""What ends with its ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """A context manager whose block ends with `close`, and with `abandon` before that if it fails.

    Subclasses that begin something when the block does extend ``__enter__``.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self.abandon()
        self.close()

    def abandon(self) -> None:  # noqa: B027 (most need not)
        """Stop what is under way: nobody wants it any more."""

    @abstractmethod
    def close(self) -> None:
        """Give up what is held."""
