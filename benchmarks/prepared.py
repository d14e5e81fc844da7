"""Measures a store of prepared documents: its size, reads by digest, the time to prepare, and the cache at its bound.

    python -m benchmarks prepared [--documents 100000] [--store DIR] [--reads 1000] [--pools 20000] [--model MODEL] [--json FILE]

Documents are synthetic: as many tokens as passages of MS MARCO have, and states of random bytes, which a file system cannot shrink.
A read is what a call of 50 candidates asks for. Warm: the files are in the system's page cache. Dropped: they are put out of it
before each read, as far as the system lets a process do so (posix_fadvise(2)); a disk's own cache stays. A store that is there
already, as from a run before, is filled up to the number of documents. Exit code 1 if a document is not found or is another one, or
if the cache takes a fifth more memory than its bound.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.machine_facts import machine_facts
from benchmarks.material import gate_pools
from resift import Reranker
from resift.settings import DOCUMENT_CACHE
from resift.states.digests import DIGEST_BYTES
from resift.states.document_states import DocumentStates
from resift.states.layout import Header
from resift.states.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

SIZE = 384
"""Bytes of a token's state, as MiniLM has."""
MEAN, SPREAD, SHORTEST, LONGEST = 80.0, 0.4, 8, 480
"""Tokens of a document: their geometric mean, the standard deviation of their logarithm, and their bounds."""
POOL = 50
WRITTEN = 2_000
"""Documents that are written at once, as `resift prepare` does some seconds' worth."""
COLD_READS = 100
SEED = 33
MACHINES, MANY = 10, 10_000_000
ALLOWED = 1.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--store", type=Path, help="a folder for the store, which stays (default: a temporary one)")
    parser.add_argument("--reads", type=int, default=1000)
    parser.add_argument("--pools", type=int, default=20_000, help="pools of 50 new documents that pass through the cache")
    parser.add_argument("--model", help="a model with a split graph, to prepare documents with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prepared-") as temporary:
        figures: dict[str, Any] = {
            "machine": machine_facts(),
            "store": store_figures(arguments.store or Path(temporary), arguments.documents, arguments.reads),
            "cache": cache_figures(arguments.pools),
            "prepare": preparation_figures(arguments.model),
        }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(figures["store"]["false"] > 0 or figures["cache"]["growth_mb"] > ALLOWED * DOCUMENT_CACHE / 1e6)


class SyntheticDocuments:
    """Digests and states by number, of which no two are alike."""

    def __init__(self, count: int) -> None:
        chance = np.random.default_rng(SEED)
        self._bytes = chance.integers(0, 256, (LONGEST + 1) * SIZE, np.uint8).tobytes()
        tokens = np.exp(chance.normal(np.log(MEAN), SPREAD, count))  # the first ones are the same for any count
        self.tokens = np.clip(np.rint(tokens), SHORTEST, LONGEST).astype(int)

    def digest(self, number: int) -> bytes:
        return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=DIGEST_BYTES).digest()

    def content(self, number: int) -> bytes:
        """Random bytes that begin with the number."""
        return number.to_bytes(8, "little") + self._bytes[: int(self.tokens[number]) * SIZE - 8]


def store_figures(store: Path, count: int, reads: int) -> dict[str, Any]:
    documents = SyntheticDocuments(count)
    began = time.perf_counter()
    with StoreWriter(store, Header("synthetic", SIZE, 16, "synthetic documents")) as writer:
        for start in range(0, count, WRITTEN):
            digests = {documents.digest(number): number for number in range(start, min(count, start + WRITTEN))}
            writer.keep({digest: documents.content(digests[digest]) for digest in writer.missing(digests)})
    written = time.perf_counter() - began
    files = sorted(store.glob("states-*/*.sqlite"))
    size, states = sum(path.stat().st_size for path in files), int(documents.tokens.sum()) * SIZE
    print(
        f"store: {count} documents of {documents.tokens.mean():.0f} tokens, {size / 1e9:.2f} GB in {len(files)} files, "
        f"{size / states:.3f} times the states; written at {states / written / 1e6:.0f} MB/s"
    )
    figures: dict[str, Any] = {"documents": count, "bytes": size, "of_states": size / states, "write_seconds": written, "false": 0}
    known = DocumentStates("synthetic", SIZE, cache_bytes=0, store=store)
    chance = np.random.default_rng(SEED + 1)

    def read() -> float:
        numbers = chance.integers(0, count, POOL).tolist()
        digests = [documents.digest(number) for number in numbers]
        began = time.perf_counter()
        found = known.find(digests).states
        seconds = time.perf_counter() - began
        figures["false"] += sum(not _is(each, documents, number) for number, each in zip(numbers, found, strict=True))
        return seconds

    figures["warm_ms"] = _percentiles("warm", read, reads, lambda: None)
    if hasattr(os, "posix_fadvise"):
        figures["dropped_ms"] = _percentiles("dropped", read, min(reads, COLD_READS), lambda: _drop(files))
    known.close()
    _extrapolate(size / count, count, len(files))
    return figures


def _is(states: NDArray[np.uint8] | None, documents: SyntheticDocuments, number: int) -> bool:
    return states is not None and states.tobytes() == documents.content(number)


def _percentiles(name: str, read: Callable[[], float], count: int, before: Callable[[], None]) -> dict[str, float]:
    milliseconds = []
    read()
    for _ in range(count):
        before()
        milliseconds.append(1000 * read())
    p50, p99 = np.percentile(milliseconds, [50, 99])
    print(f"reads of {POOL} by digest, {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms ({count} reads)")
    return {"p50": float(p50), "p99": float(p99)}


def _drop(files: list[Path]) -> None:
    """Puts the files out of the system's page cache. Nothing is read meanwhile: to close a file gives up the process's locks."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _extrapolate(each: float, count: int, files: int) -> None:
    """By arithmetic: the levels of a file's index decide how many more pages a read takes."""
    print(
        f"by arithmetic, {MANY:,} documents: {each * MANY / 1e9:.0f} GB in one store, "
        f"{each * MANY / MACHINES / 1e9:.0f} GB in each of {MACHINES}"
    )
    for name, rows in (("here", count), (f"in each of {MACHINES}", MANY // MACHINES), ("in one store", MANY)):
        print(f"  {name}: {rows // files:,} documents a file, {_levels(rows / files)} levels of its index")


def _levels(rows: float) -> int:
    """Levels of an index whose pages of 16,384 bytes hold some 400 digests each, two thirds full."""
    return max(1, int(np.ceil(np.log(max(2.0, rows)) / np.log(400))))


def cache_figures(pools: int) -> dict[str, Any]:
    """Memory of this process while documents pass through a cache at its bound."""
    documents = SyntheticDocuments(10_000)
    known = DocumentStates("synthetic", SIZE, cache_bytes=DOCUMENT_CACHE, store=None)
    chance = np.random.default_rng(SEED + 2)
    batches = [_states(documents, chance) for _ in range(20)]
    before, peak, warm = resident_mb(), 0.0, 0.0
    began = time.perf_counter()
    for number in range(pools):
        digests = [documents.digest(number * POOL + place) for place in range(POOL)]
        known.find(digests)
        known.keep(digests, batches[number % len(batches)])
        if number % 100 == 0:
            peak = max(peak, resident_mb())
        if number == pools // 10:
            warm = resident_mb()
    seconds, after = time.perf_counter() - began, resident_mb()
    growth = max(peak, after) - before
    print(
        f"cache of {DOCUMENT_CACHE / 1e6:.0f} MB over {pools} pools of {POOL} new documents: {known.cache_bytes / 1e6:.1f} MB by "
        f"its count, {growth:.1f} MB of the process ({warm - before:.1f} after a tenth of the pools); "
        f"{1e6 * seconds / pools / POOL:.1f} us a document"
    )
    return {"bound_mb": DOCUMENT_CACHE / 1e6, "counted_mb": known.cache_bytes / 1e6, "growth_mb": growth, "pools": pools}


def resident_mb() -> float:
    """Resident megabytes of this process, from https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _states(documents: SyntheticDocuments, chance: np.random.Generator) -> list[NDArray[np.uint8]]:
    numbers = chance.integers(0, len(documents.tokens), POOL).tolist()
    return [np.frombuffer(documents.content(number), np.uint8).reshape(-1, SIZE) for number in numbers]


def preparation_figures(model: str | None) -> dict[str, Any] | None:
    """Milliseconds a document of the built-in gate, with all cores, none of them twice."""
    texts = [*dict.fromkeys(text for pool in gate_pools() for text in pool.documents)]
    with Reranker.load(model) as reranker:
        if reranker.document_states is None:
            print("prepare: the model has no split graph")
            return None
        reranker.prepare(texts[:64])
        runs = [*_times(lambda: reranker.prepare(texts), 5)]
        digests = [*_times(lambda: reranker.document_digests(texts), 5)]
        states = reranker.prepare(texts)
        threads = reranker.resolved.threads
    tokens = sum(len(each) for _, each in states)
    each, look = 1000 * min(runs) / len(texts), 1000 * min(digests) / len(texts)
    print(
        f"prepare: {each:.2f} ms a document of {tokens / len(texts):.0f} tokens with {threads} threads (the best of {len(runs)} "
        f"runs over {len(texts)} documents), of which its digest takes {look:.2f} ms; a million: {each * 1e6 / 3.6e6:.1f} hours"
    )
    return {"ms": each, "digest_ms": look, "tokens": tokens / len(texts), "threads": threads}


def _times(run: Callable[[], object], repeats: int) -> Iterator[float]:
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        yield time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
