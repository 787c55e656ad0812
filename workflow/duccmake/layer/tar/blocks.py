"""The bytes of an archive, which come in pieces of any size."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import CorruptLayer
from .headers import BLOCK, ZERO_BLOCK, check_sum

_COPIED = 16 * 1024


class Blocks:
    """Headers, and the content of the member whose header came last.

    The content is taken by `content` and skipped when it is not.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self._left = 0
        self._padding = 0

    def content(self) -> Iterator[memoryview]:
        """The current member's stored content, piece by piece (holes left out)."""
        while self._left:
            available = len(self._piece) - self._at
            if not available:
                self._refill()
                continue
            take = min(available, self._left)
            view = memoryview(self._piece)[self._at : self._at + take]
            self._at += take
            self._left -= take
            yield view

    def small_content(self) -> bytes | memoryview | None:
        """The current member's whole content, where it lies in one piece; else None."""
        end = self._at + self._left
        behind = end + self._padding
        if behind > len(self._piece):
            return None
        # A copy is cheaper than a view as long as it is small.
        piece = self._piece if self._left <= _COPIED else memoryview(self._piece)
        content = piece[self._at : end]
        self._at = behind
        self._left = self._padding = 0
        return content

    def _refill(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise CorruptLayer("the archive ends in the middle of a member's content")
        self._piece = piece
        self._at = 0

    def _take(self, size: int) -> bytes | None:
        """Exactly ``size`` bytes; None at a clean end; `CorruptLayer` in between."""
        at = self._at
        end = at + size
        if end <= len(self._piece):
            self._at = end
            return self._piece[at:end]
        parts = [self._piece[at:]]
        missing = size - len(parts[0])
        while missing:
            piece = next(self._pieces, None)
            if piece is None:
                self._piece, self._at = b"", 0
                if missing == size:
                    return None
                raise CorruptLayer("the archive ends in the middle of a header")
            parts.append(piece[:missing])
            self._piece = piece
            self._at = len(parts[-1])
            missing -= self._at
        return b"".join(parts)

    def _next_header(self) -> bytes | None:
        header = self._take(BLOCK)
        if header is None:
            return None
        if header == ZERO_BLOCK:
            second = self._take(BLOCK)
            if second is None or second == ZERO_BLOCK:
                return None
            raise CorruptLayer("a single zero block stands between the archive's members")
        check_sum(header)
        return header

    def _open_content(self, size: int) -> None:
        if size < 0:
            raise CorruptLayer(f"a header says that its member has {size} bytes")
        self._left = size
        self._padding = -size % BLOCK

    def _pass_over_content(self) -> None:
        if self._left:
            for _ in self.content():
                pass
        if self._padding:
            self._pass_over_padding()

    def _pass_over_padding(self) -> None:
        """Go on behind a member; some builders leave out what fills the last one's block."""
        while self._padding:
            step = min(self._padding, len(self._piece) - self._at)
            self._at += step
            self._padding -= step
            if not self._padding:
                return
            piece = next(self._pieces, None)
            if piece is None:
                self._padding = 0
                return
            self._piece, self._at = piece, 0

    def _pass_over(self, size: int) -> None:
        self._open_content(size)
        self._pass_over_content()
