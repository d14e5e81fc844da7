"""Figures: the agreement with the certificate, the quality on labelled pools, times in turn, and shares of the chip's rates."""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.cuda.contenders import QUERY
from resift.artifact.agreement import check_bounds
from resift.artifact.certificate import Certificate
from resift.artifact.coverage import check_classes
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.errors import ParityError
from resift.metrics import ndcg
from resift.pools.source import read_pools

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.cuda.contenders import Resift, Timed
    from resift import Reranker

WARM = 2
"""Rounds that are not counted: kernels are chosen and memory is taken in them."""
ROUNDS = range(3, 31)
"""How often each contender runs, as far as there is time."""
HALF_BYTES = 2


class Clock:
    """The time that the script may still take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds; negative once it is over."""
        return self._end - time.monotonic()


class Rates(NamedTuple):
    """What the device does at best, measured by PyTorch."""

    operations: float
    """float16 multiplications and additions a second, in a product of large matrices"""
    bytes: float
    """read and written a second, in a copy"""

    @classmethod
    def measure(cls, device: str, size: int) -> Rates:
        """The rates for matrices of `size` x `size`."""
        import torch

        kind = torch.float16 if device == "cuda" else torch.float32
        first = torch.randn(size, size, device=device, dtype=kind)
        target = torch.empty_like(first)

        def seconds(step: Any, repeats: int = 10) -> float:
            step()
            _wait(device)
            start = time.perf_counter()
            for _ in range(repeats):
                step()
            _wait(device)
            return (time.perf_counter() - start) / repeats

        product = seconds(lambda: torch.matmul(first, first, out=target))
        copy = seconds(lambda: target.copy_(first))
        return cls(2 * size**3 / product, 2 * first.nbytes / copy)


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def agreement(reranker: Reranker, folder: Path) -> dict[str, Any]:
    """The artifact's agreement with its certificate, as computed here; "fault" says which bound does not hold."""
    certificate = Certificate.read(reranker.artifact)
    file = reranker.variant.file
    answers = [reranker.submit(pool.query, pool.documents, plan="full") for pool in certificate.all_pools]
    logits = [answer.result().logits for answer in answers]
    found = certificate.measure(logits[: len(certificate.pools)])
    classes = certificate.measure_classes(logits, reranker.artifact.manifest.pair.max_length)
    fault = None
    try:
        check_bounds(found, certificate.bounds, str(folder))
        check_classes(classes, certificate.bounds, str(folder))
    except ParityError as error:
        fault = str(error)
    recorded = [np.array(pool.variants[file]) for pool in certificate.all_pools]
    change = max(float(np.abs(here - before).max()) for here, before in zip(logits, recorded, strict=True))
    return {
        "file": file,
        "here": found.summary(),
        "at_export": certificate.agreement[file].summary(),
        "largest_change": change,
        "share_of_range": change / certificate.span,
        "fault": fault,
    }


def quality(contenders: Sequence[Timed], path: Path, seconds: float) -> dict[str, Any]:
    """Mean nDCG@10 of each contender on the labelled pools that all of them score within so many seconds, and their number."""
    values: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    begin = time.monotonic()
    pools = list(read_pools(path))
    for pool in pools:
        if time.monotonic() - begin > seconds:
            break
        labels = [int(fields.get("label", 0)) for fields in pool.fields]
        for contender in contenders:
            scores = np.asarray(contender.score(pool.query, pool.documents), np.float64)
            values[contender.name].append(ndcg(labels, scores))
    means = {name: float(np.mean(each)) for name, each in values.items() if each}
    return {"pools": len(values[contenders[0].name]), "of": len(pools), "mean": means}


def lengths_of(tokens: int, size: int, *, is_mixed: bool) -> NDArray[np.int64]:
    """Tokens of `size` pairs: all the same, or from an eighth of it on, as those of retrieved passages differ."""
    if not is_mixed:
        return np.full(size, tokens)
    return np.random.default_rng(tokens).integers(tokens // 8, tokens + 1, size)


def pool_of(reranker: Reranker, tokens: NDArray[np.int64]) -> list[str]:
    """Documents that make pairs of exactly so many tokens with QUERY, or a few more, of words that are one token each."""
    words = sorted({word for pool in Certificate.read(reranker.artifact).pools for text in pool.documents for word in text.split()})
    tokenizer = open_tokenizer(reranker.artifact)
    lengths = tokenizer.encode(QUERY, ["", *words]).lengths
    single = [word for word, length in zip(words, lengths[1:], strict=True) if length == lengths[0] + 1 and word.isalpha()]
    random = np.random.default_rng(int(tokens.sum()))
    return [" ".join(random.choice(single, max(1, count - int(lengths[0])))) for count in tokens]


def times(contenders: Sequence[Timed], documents: list[str], seconds: float) -> dict[str, list[float]]:
    """Seconds of every round by contender, each in turn; none if there is not time for the fewest."""
    found: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    begin = time.monotonic()
    for turn in range(WARM + ROUNDS.stop - 1):
        spent = time.monotonic() - begin
        if turn >= WARM + ROUNDS.start and spent > seconds:
            break
        if turn == WARM and spent / WARM * ROUNDS.start > max(seconds, 2 * seconds - spent):
            return {}
        for contender in contenders if turn % 2 else reversed(contenders):
            start = time.perf_counter()
            contender.score(QUERY, documents)
            if turn >= WARM:
                found[contender.name].append(time.perf_counter() - start)
            elif time.monotonic() - begin > seconds:
                return {}
    return found


def shares(resift: Resift, work: Path, rates: Rates) -> dict[str, float]:
    """Shares of the chip's rates in resift's last batches.

    Operations: products with weights, and attention; those on padding do not count, computed or not. Bytes, at least: the weights
    once a batch, and what the products of a layer read and write; what normalization and activations add is not counted.
    """
    graph = resift.reranker.graph
    size = json.loads((work / "checkpoint" / "config.json").read_text())["hidden_size"]
    lengths = np.concatenate([batch.lengths for batch in resift.batches]).astype(np.float64)
    seconds = sum(batch.seconds for batch in resift.batches)
    operations = graph.operations * lengths.sum() + 4 * size * graph.layers * (lengths**2).sum()
    weights = resift.reranker.artifact.manifest.files[resift.reranker.variant.file].size
    moved = weights * len(resift.batches) + HALF_BYTES * 18 * size * graph.layers * lengths.sum()
    return {
        "device_ms": 1000 * seconds,
        "batches": len(resift.batches),
        "padding": float(1 - lengths.sum() / sum(batch.places for batch in resift.batches)),
        "share_of_operations": operations / seconds / rates.operations,
        "share_of_bytes": moved / seconds / rates.bytes,
    }


def row(name: str, measured: dict[str, list[float]], fastest: str) -> dict[str, Any]:
    """Milliseconds of one contender, and how many times faster `fastest` was, round by round."""
    ratios = [slow / fast for slow, fast in zip(measured[name], measured[fastest], strict=True)]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return {
        "system": name,
        "p50_ms": 1000 * statistics.median(measured[name]),
        "times_slower": middle,
        "quartiles": [low, high],
        "rounds": len(ratios),
    }
