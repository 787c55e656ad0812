"""Metrics of the images for Prometheus, as node_exporter's textfile collector reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..errors import Fault
from ..state.model import State
from .document import Document, Health, Sync
from .lives import LAST_SUCCESS, VISIBLE
from .status import Status

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_LATER = "later"


def exposition(document: Document, states: Iterable[State], status: Status) -> bytes:
    """The metrics in Prometheus' text format; no label is the name of an image."""
    from prometheus_client import CollectorRegistry, generate_latest  # slow to import

    found = list(_metrics(document, list(states), status))

    class Collected:
        def collect(self) -> Iterable[Metric]:
            return found

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    return generate_latest(registry)


def _metrics(document: Document, states: list[State], status: Status) -> Iterator[Metric]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )

    totals = document.totals

    def total(what: str) -> float:
        return sum(state.counts.get(what, 0) for state in states)

    def gauge(name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"duccmake_{name}", text, value)

    def labelled(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
        metric = GaugeMetricFamily(f"duccmake_{name}", text, labels=[label])
        for key, value in values:
            metric.add_metric([key], value)
        return metric

    yield InfoMetricFamily("duccmake", "The version.", {"version": document.version})
    by_sync = ((one, totals.sync.get(one, 0)) for one in Sync)
    yield labelled("images", "Images, by whether they are as wished for.", "sync", by_sync)
    by_health = ((one, totals.health.get(one, 0)) for one in Health)
    text = "Images, by whether something is wrong with them."
    yield labelled("images_by_health", text, "health", by_health)
    failing = Counter(image.failure.kind for image in document.images if image.failure)
    by_fault = ((one, failing[one]) for one in Fault)
    yield labelled("images_failing", "Images whose last try failed.", "reason", by_fault)
    yield gauge("layers", "Layers of published images.", totals.layers)
    yield gauge("layers_bytes", "The blobs of these layers.", totals.bytes)
    yield gauge("shared_bytes", "The blobs of layers of several images.", totals.shared)
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
    text = "From when a poll found a digest until it was published."
    yield HistogramMetricFamily(
        "duccmake_push_to_visible_seconds",
        text,
        buckets=buckets,
        sum_value=total("visible seconds"),
    )
    yield gauge("last_run_timestamp_seconds", "When the last run ended.", status.ended)
    yield gauge("last_run_duration_seconds", "How long it took.", status.seconds)
    success = max((state.counts.get(LAST_SUCCESS, 0) for state in states), default=0)
    yield gauge("last_success_timestamp_seconds", "When a run ended without failures.", success)
