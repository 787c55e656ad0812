"""How far a run is, while its jobs run: one line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..planning.model import PlannedImage
from ..planning.plan import Plan
from ..words import in_bytes
from ..workspace.reports import Arrivals, Kind
from ..workspace.results import blob, published, staged_layer
from .lines import is_terminal, say

if TYPE_CHECKING:
    from tqdm import tqdm

_TICK_SECONDS = 0.5

_QUIET_SECONDS = 60.0
"""How often a line is written where lines cannot be written over."""

_FETCHING = "{desc} |{bar}| {n_fmt}B of {total_fmt}B, {rate_fmt}, {remaining} left"
_PUBLISHING = "{desc} |{bar}| {elapsed} so far{postfix}"


@dataclass(frozen=True, slots=True)
class Standing:
    """How many images are published and bytes are fetched, of all that are to be."""

    images: int
    all_images: int
    fetched: int
    to_fetch: int

    def __str__(self) -> str:
        fetched = f", {in_bytes(self.fetched)} of {in_bytes(self.to_fetch)} fetched"
        return f"{_images(self)} published{fetched if self.to_fetch else ''}"


class Gauge:
    """Reads how far a run is from what its jobs leave in the working directory.

    It is about all images that the run is about, or about some ``images`` of them.
    """

    def __init__(self, plan: Plan, run: Path, images: Iterable[PlannedImage] = ()) -> None:
        about = list(images) or plan.wanted
        self._receipts = {
            published(image.repository, image.name, plan.key(image.manifest)) for image in about
        }
        self._all = len(self._receipts)
        to_fetch = {
            key
            for image in about
            for key in plan.staged_layers(image)
            if not staged_layer(image.repository, key).exists()
        }
        self._sizes = {key: plan.claims(key)[0].layer.descriptor.size for key in to_fetch}
        # Blobs are gone once they are unpacked; what was there stays fetched.
        self._there = {key: min(size, _size(key)) for key, size in self._sizes.items()}
        self._fetched = Arrivals(run, Kind.FETCHED)

    def read(self) -> Standing:
        """How far it is now."""
        self._receipts = {path for path in self._receipts if not path.exists()}
        fetched = {"".join(report.job.wildcards) for report in self._fetched.new()}
        for key, size in self._sizes.items():
            there = self._there[key]
            if there < size:
                self._there[key] = size if key in fetched else max(there, min(size, _size(key)))
        done = self._all - len(self._receipts)
        return Standing(done, self._all, sum(self._there.values()), sum(self._sizes.values()))


def _size(key: str) -> int:
    """How much of a blob is there; a file that is renamed at this moment has its next name."""
    for path in blob(key):
        try:
            return path.stat().st_size
        except OSError:
            continue
    return 0


class ProgressLine:
    """The progress of a run, on a stream, from `start` to `stop`."""

    def __init__(self, gauge: Gauge, stream: TextIO) -> None:
        self._gauge = gauge
        self._stream = stream
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._bar: tqdm[Any] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Show it from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Take it away."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Write lines of another kind inside: it is not in their way."""
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            yield

    def _run(self) -> None:
        if is_terminal(self._stream):
            self._show_bar()
        else:
            self._write_lines()

    def _write_lines(self) -> None:
        while not self._ended.wait(_QUIET_SECONDS):
            with self._lock:
                say(f"duccmake: {self._gauge.read()}", stream=self._stream)

    def _show_bar(self) -> None:
        from tqdm import tqdm  # slow to import, and for people alone

        tqdm.monitor_interval = 0
        now = self._gauge.read()
        with tqdm(
            desc=_images(now),
            total=now.to_fetch,
            bar_format=_FETCHING,
            file=self._stream,
            unit="B",
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,
            initial=now.fetched,
            smoothing=0,  # the rate is that of the whole run: one that stalls shows it
        ) as bar:
            self._bar = bar
            while not self._ended.wait(_TICK_SECONDS):
                with self._lock:
                    _draw(bar, self._gauge.read())
            with self._lock:
                self._bar = None


def _draw(bar: tqdm[Any], now: Standing) -> None:
    bar.set_description_str(_images(now), refresh=False)
    if now.fetched < now.to_fetch:
        bar.n = now.fetched
    else:
        bar.bar_format, bar.total, bar.n = _PUBLISHING, now.all_images, now.images
        bar.set_postfix_str(f"{in_bytes(now.fetched)} fetched", refresh=False)
    bar.refresh()


def _images(now: Standing) -> str:
    return f"{now.images} of {now.all_images} images"
