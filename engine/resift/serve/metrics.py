"""Metrics for Prometheus, in a separate registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from resift.ranking import Scored
    from resift.scheduling.call import Batch
    from resift.serve.admission import Admission
    from resift.serve.models import Models

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = tuple(float(2**power) for power in range(5, 21))
ROWS = tuple(float(2**power) for power in range(11))


class Metrics:
    """The server's metrics. Batches are counted on the engine's threads, all else on the event loop."""

    def __init__(self, models: Models, admission: Admission) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Queues(models))
        in_progress = Gauge("resift_requests_in_progress", "Rerank requests in progress", registry=registry)
        in_progress.set_function(lambda: admission.requests)
        held = Gauge("resift_held_bytes", "Bytes of bodies and answers of requests in progress", registry=registry)
        held.set_function(lambda: admission.held.total)
        characters = Gauge("resift_waiting_characters", "Characters that wait for tokenization", registry=registry)
        characters.set_function(lambda: admission.characters)
        self._requests = Counter("resift_requests", "Requests by API and status", ["api", "status"], registry=registry)
        self._seconds = Histogram(
            "resift_request_seconds", "Time from the headers to the answer", ["api"], buckets=SECONDS, registry=registry
        )
        self._rejected = Counter("resift_rejected", "Refused rerank requests by reason", ["reason"], registry=registry)
        self._disconnected = Counter("resift_disconnected", "Requests whose client went away", registry=registry)
        self._closed = Counter("resift_closed_connections", "Connections closed by a limit", ["reason"], registry=registry)
        self._tokenize = Histogram("resift_tokenize_seconds", "Time to tokenize a request", buckets=SECONDS, registry=registry)
        self._wait = Histogram(
            "resift_queue_seconds", "Time from tokenized to the first row running", buckets=SECONDS, registry=registry
        )
        self._documents = Histogram("resift_request_documents", "Documents of a request", buckets=ROWS, registry=registry)
        self._tokens_cut = Counter("resift_tokens_cut", "Tokens cut from documents that were too long", registry=registry)
        self._run = Histogram("resift_run_seconds", "Time to run a batch", buckets=SECONDS, registry=registry)
        self._tokens = Histogram("resift_batch_tokens", "Tokens of a batch", buckets=TOKENS, registry=registry)
        self._rows = Histogram("resift_batch_rows", "Rows of a batch", buckets=ROWS, registry=registry)
        for reranker in models.rerankers.values():
            reranker.observe(self._batch)

    def count_request(self, api: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self._requests.labels(api, str(status)).inc()
        self._seconds.labels(api).observe(seconds)

    def count_refusal(self, reason: str) -> None:
        """Counts a refusal."""
        self._rejected.labels(reason).inc()

    def count_disconnect(self) -> None:
        """Counts a client that went away."""
        self._disconnected.inc()

    def count_closed(self, reason: str) -> None:
        """Counts a connection that a limit closed."""
        self._closed.labels(reason).inc()

    def count_result(self, scored: Scored, tokenize_seconds: float) -> None:
        """Counts the engine's result for a request, and the seconds that it took to tokenize it."""
        self._tokenize.observe(tokenize_seconds)
        self._wait.observe(scored.waited)
        self._documents.observe(len(scored.logits))
        self._tokens_cut.inc(int(scored.tokens_cut.sum()))

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _batch(self, batch: Batch, seconds: float) -> None:
        self._run.observe(seconds)
        self._tokens.observe(batch.tokens)
        self._rows.observe(len(batch.rows))


class _Queues(Collector):
    """Reads the schedulers' numbers whenever the metrics are collected."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """One metric family per number, labelled by model."""
        rows = GaugeMetricFamily("resift_waiting_rows", "Rows that wait to run", labels=["model"])
        tokens = GaugeMetricFamily("resift_waiting_tokens", "Tokens that wait to run", labels=["model"])
        dropped = CounterMetricFamily("resift_dropped_rows", "Rows whose request ended before they ran", labels=["model"])
        for name, reranker in self._models.rerankers.items():
            queued = reranker.queued
            rows.add_metric([name], queued.rows)
            tokens.add_metric([name], queued.tokens)
            dropped.add_metric([name], queued.dropped)
        yield from (rows, tokens, dropped)
