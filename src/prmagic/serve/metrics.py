"""Counters for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from prmagic.serve.store import Store
from prmagic.serve.worker import Worker

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Of one server."""

    def __init__(self, worker: Worker, store: Store):
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "prmagic_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "prmagic_request_seconds", "How long answers took.", ["route"], buckets=SECONDS, registry=self._registry
        )
        self.photos = Counter("prmagic_photos", "Photos segmented.", registry=self._registry)
        self._gauge("waiting_requests", "Requests that are not answered yet.").set_function(lambda: worker.waiting)
        self._gauge("photo_seconds", "How long a photo took lately.").set_function(lambda: worker.seconds)
        self._gauge("references", "References that are kept.").set_function(lambda: sum(1 for _ in store.names()))
        self._gauge("reference_bytes", "Memory of loaded references.").set_function(lambda: store.bytes)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Book an answer; route: as in the API, not as asked for."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(f"prmagic_{name}", help, registry=self._registry)
