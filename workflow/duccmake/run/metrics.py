"""Metrics of the images for Prometheus, as node_exporter's textfile collector reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import Fault
from ..state.model import State
from .document import Document, Health, Sync
from .lives import VISIBLE
from .status import Status

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_LATER = "later"


def exposition(document: Document, states: Iterable[State], status: Status) -> bytes:
    """The metrics in Prometheus' text format; no label is the name of an image."""
    return as_text(_metrics(document, list(states), status))


def as_text(metrics: Iterable[Metric]) -> bytes:
    """Metrics in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest  # slow to import

    found = list(metrics)

    class Collected:
        def collect(self) -> Iterable[Metric]:
            return found

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    return generate_latest(registry)


def _metrics(document: Document, states: list[State], status: Status) -> Iterator[Metric]:
    from prometheus_client.core import InfoMetricFamily

    yield InfoMetricFamily("duccmake", "The version.", {"version": document.version})
    yield from _of_images(document)
    yield from _of_history(states)
    yield gauge("last_run_timestamp_seconds", "When the last run ended.", status.ended)
    yield gauge("last_run_duration_seconds", "How long it took.", status.seconds)
    text = "When a run ended without failures."
    yield gauge("last_success_timestamp_seconds", text, document.last_success or 0.0)


def _of_images(document: Document) -> Iterator[Metric]:
    """How images stand, and how much there is of them."""
    totals = document.totals
    text = "Images, by whether they are as wished for."
    yield _by("images", text, "sync", {one: totals.sync.get(one, 0) for one in Sync})
    text = "Images, by whether something is wrong with them."
    yield _by(
        "images_by_health", text, "health", {one: totals.health.get(one, 0) for one in Health}
    )
    failing = Counter(image.failure.kind for image in document.images if image.failure)
    text = "Images whose last try failed."
    yield _by("images_failing", text, "reason", {one: failing[one] for one in Fault})
    yield gauge("layers", "Layers of published images.", totals.layers)
    yield gauge("layers_bytes", "The blobs of these layers.", totals.bytes)
    yield gauge("shared_bytes", "The blobs of layers of several images.", totals.shared)


def _of_history(states: list[State]) -> Iterator[Metric]:
    """What has happened since anything is kept."""
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    def total(what: str) -> float:
        return sum(state.counts.get(what, 0) for state in states)

    failures = CounterMetricFamily("duccmake_failures", "Tries that failed.", labels=["reason"])
    for fault in Fault:
        failures.add_metric([fault], total(f"failed {fault}"))
    yield failures
    text = "Images that were published."
    yield CounterMetricFamily("duccmake_conversions", text, value=total("converted"))
    yield CounterMetricFamily("duccmake_removals", "Images that left.", value=total("removed"))
    buckets, seen = [], 0.0
    for bound in VISIBLE:
        seen += total(f"visible {bound}")
        buckets.append((str(float(bound)), seen))
    buckets.append(("+Inf", seen + total(f"visible {_LATER}")))
    yield HistogramMetricFamily(
        "duccmake_push_to_visible_seconds",
        "From when a poll found a digest until it was published.",
        buckets=buckets,
        sum_value=total("visible seconds"),
    )


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"duccmake_{name}", text, value)


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge with a label that has few values."""
    from prometheus_client.core import GaugeMetricFamily

    metric = GaugeMetricFamily(f"duccmake_{name}", text, labels=[label])
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric
