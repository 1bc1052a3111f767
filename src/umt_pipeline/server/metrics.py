"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; each has its own, so that two in a process do not mix.

    Attributes:
        requests: by route, method and status.
        seconds: from a request's headers to the end of its answer, by route.
        queue: pieces of model work that wait.
        batch: texts that went through a model at once.
        refused: with 503, by what there was too much of.
        uploads: refused ones, by the reason.
        generation: of a model's index.
        windows: in a model's index.
        healthy: 1 if the last check of health found everything as it was at the start.
        behind: 1 if something newer of a model is there and cannot be served; the list of models says why.
        swaps: of a model or index while it was served, by model.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept = self.registry
        self.requests = Counter("umt_requests_total", "Requests.", ["route", "method", "status"], registry=kept)
        self.seconds = Histogram("umt_request_seconds", "Time of requests.", ["route"], buckets=_SECONDS, registry=kept)
        self.queue = Gauge("umt_queue_length", "Model work that waits.", registry=kept)
        self.batch = Histogram("umt_text_batch_size", "Texts through a model at once.", buckets=_SIZES, registry=kept)
        self.refused = Counter("umt_refused_total", "Requests refused because there were too many.", ["what"], registry=kept)
        self.uploads = Counter("umt_uploads_refused_total", "Uploads that could not be read.", ["reason"], registry=kept)
        self.generation = Gauge("umt_index_generation", "Generation of the index.", ["model"], registry=kept)
        self.windows = Gauge("umt_index_windows", "Windows in the index.", ["model"], registry=kept)
        self.healthy = Gauge("umt_healthy", "Whether the last check found everything as at the start.", registry=kept)
        self.behind = Gauge("umt_behind", "Whether something newer cannot be served.", ["model"], registry=kept)
        self.swaps = Counter("umt_swaps_total", "Models or indexes put in place of others.", ["model"], registry=kept)

    def page(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
