"""Metrics for Prometheus, in a separate registry.

Those named te_ are text-embeddings-inference's, and mean the same. The label `model` is a model's first name, or empty for requests
that reached none, so that clients cannot make values of it.
"""

from __future__ import annotations

from functools import partial
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
        registry.register(_Documents(models))
        in_progress = Gauge("resift_requests_in_progress", "Rerank requests in progress", registry=registry)
        in_progress.set_function(lambda: admission.requests)
        held = Gauge("resift_held_bytes", "Bytes of bodies and answers of requests in progress", registry=registry)
        held.set_function(lambda: admission.held.total)
        characters = Gauge("resift_waiting_characters", "Characters that wait for tokenization", registry=registry)
        characters.set_function(lambda: admission.characters)
        self._requests = Counter(
            "resift_requests", "Requests by API, model and status", ["api", "model", "status"], registry=registry
        )
        self._seconds = Histogram(
            "resift_request_seconds", "Time from the headers to the answer", ["api"], buckets=SECONDS, registry=registry
        )
        self._rejected = Counter("resift_rejected", "Refused rerank requests by reason", ["reason"], registry=registry)
        self._disconnected = Counter("resift_disconnected", "Requests whose client went away", registry=registry)
        self._closed = Counter("resift_closed_connections", "Connections closed by a limit", ["reason"], registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, ["model"], buckets=buckets, registry=registry)

        self._answer = histogram("te_request_duration", "Time to tokenize, queue and run an answered request", SECONDS)
        self._tokenize = histogram("resift_tokenize_seconds", "Time to tokenize a request", SECONDS)
        self._wait = histogram("resift_queue_seconds", "Time from tokenized to the first row running", SECONDS)
        self._documents = histogram("resift_request_documents", "Documents of a request", ROWS)
        self._run = histogram("resift_run_seconds", "Time to run a batch", SECONDS)
        self._tokens = histogram("te_batch_next_tokens", "Tokens of a batch", TOKENS)
        self._rows = histogram("te_batch_next_size", "Rows of a batch", ROWS)
        self._tokens_cut = Counter(
            "resift_tokens_cut", "Tokens cut from documents that were too long", ["model"], registry=registry
        )
        for name, reranker in models.rerankers.items():
            reranker.observe(partial(self._batch, name))

    def count_request(self, api: str, model: str, status: int, seconds: float) -> None:
        """Counts a request, whatever its answer. `model`: the name of a served model, or empty."""
        self._requests.labels(api, model, str(status)).inc()
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

    def count_result(self, model: str, scored: Scored, tokenize_seconds: float) -> None:
        """Counts the engine's result for a request, and the seconds that it took to tokenize it."""
        self._tokenize.labels(model).observe(tokenize_seconds)
        self._wait.labels(model).observe(scored.waited)
        self._documents.labels(model).observe(len(scored.logits))
        self._tokens_cut.labels(model).inc(int(scored.tokens_cut.sum()))

    def count_answer(self, model: str, seconds: float) -> None:
        """Counts the seconds that the engine took for all requests of a body."""
        self._answer.labels(model).observe(seconds)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _batch(self, model: str, batch: Batch, seconds: float) -> None:
        self._run.labels(model).observe(seconds)
        self._tokens.labels(model).observe(batch.tokens)
        self._rows.labels(model).observe(len(batch.rows))


class _Queues(Collector):
    """Reads the schedulers' numbers whenever the metrics are collected."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """One metric family per number, labelled by model."""
        rows = GaugeMetricFamily("resift_waiting_rows", "Rows that wait to run", labels=["model"])
        tokens = GaugeMetricFamily("resift_waiting_tokens", "Tokens that wait to run", labels=["model"])
        dropped = CounterMetricFamily("resift_dropped_rows", "Rows whose request ended before they ran", labels=["model"])
        halved = CounterMetricFamily("resift_halved_batches", "Batches halved because memory was too short", labels=["model"])
        for name, reranker in self._models.rerankers.items():
            queued = reranker.queued
            rows.add_metric([name], queued.rows)
            tokens.add_metric([name], queued.tokens)
            dropped.add_metric([name], queued.dropped)
            halved.add_metric([name], queued.halved)
        yield from (rows, tokens, dropped, halved)


class _Documents(Collector):
    """Reads how many documents a split graph has found, and what its cache takes, whenever the metrics are collected."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Nothing of models without a split graph."""
        documents = CounterMetricFamily(
            "resift_split_documents", "Documents that a split graph read, by where their states were", labels=["model", "states"]
        )
        cache = GaugeMetricFamily("resift_document_cache_bytes", "Bytes of states of documents in memory", labels=["model"])
        for name, reranker in self._models.rerankers.items():
            if reranker.document_states is not None:
                for states, count in reranker.document_states.counts._asdict().items():
                    documents.add_metric([name, states], count)
                cache.add_metric([name], reranker.document_states.cache_bytes)
        yield from (documents, cache)
