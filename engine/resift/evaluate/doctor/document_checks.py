"""The doctor's checks of what can be prepared: whether it would pay, and whether a store has it."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from resift.evaluate.doctor.severity import NOTE_SHARE, WARNING_SHARE
from resift.evaluate.results import Finding
from resift.files.names import path_text
from resift.pools.preparation import label_of
from resift.states import layout
from resift.states.document_states import DocumentStates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resift.artifact.manifest import Graph
    from resift.artifact.signature import Split
    from resift.evaluate.doctor.evidence import Evidence
    from resift.pools.reading import CandidatePool
    from resift.reranker import Reranker

T = TypeVar("T")

CHUNK = 1000
"""Documents that are tokenized or looked up at once."""
EXAMINED = 2000
"""The most documents that are looked up in a store: enough to know their share to some two hundredths."""
TIMED, WARM_UP = 64, 8
"""Documents whose preparation is timed, and before: the first batches allocate memory."""


def preparing(evidence: Evidence) -> Finding | None:
    """Reports documents that come back from pool to pool, where they could be prepared and no store is named."""
    reranker, graph = evidence.reranker, _split_graph(evidence.reranker)
    if graph is None or graph.split is None or reranker.resolved.store is not None:
        return None
    pools = _readable(evidence, graph.split)
    digests = _digests(reranker, _texts(pools))
    seen: set[bytes] = set()
    candidates = back = 0
    for pool in pools:
        found = {digests[text] for text in pool.documents}
        candidates, back = candidates + len(found), back + len(found & seen)
        seen |= found
    share = back / max(1, candidates)
    if share < WARNING_SHARE:
        return None
    cost, saved = _cost(reranker, [*digests]), 1 - graph.split.prepared_operations / graph.operations
    return Finding(
        name="preparing",
        severity="note",
        value=share,
        words=f"{share:.0%} of the candidates are documents of an earlier one of these {len(pools)} pools ({back} of "
        f"{candidates}); the more queries, the more come back. {graph.name} reads prepared ones in {saved:.0%} fewer operations "
        f"than new ones. To prepare one takes {1000 * cost.seconds:.1f} ms and {cost.bytes / 1000:.1f} kB; the {len(seen)} "
        f"different ones here take {cost.seconds * len(seen):.0f} s and {cost.bytes * len(seen) / 1e6:.0f} MB",
        advice=f"with a plan that has {graph.name}, run `resift prepare` on the documents that are retrieved from, and name its "
        "--store; documents that come back within minutes are in memory without that",
    )


def not_prepared(evidence: Evidence) -> Finding | None:
    """Reports documents that the named store lacks, because it was not filled with them or is of other states."""
    reranker, store = evidence.reranker, evidence.reranker.resolved.store
    states, graph = reranker.document_states, _split_graph(reranker)
    if store is None or states is None or graph is None or graph.split is None:
        return None
    texts = _spread(_texts(_readable(evidence, graph.split)), EXAMINED)
    digests = [*dict.fromkeys(_digests(reranker, texts).values())]
    prepared = 0
    with closing(DocumentStates(states.identity, states.size, cache_bytes=0, store=store)) as reading:
        for chunk in _chunks(digests):
            prepared += reading.find(chunk).prepared
    share = (len(digests) - prepared) / max(1, len(digests))
    if share < NOTE_SHARE:
        return None
    folders = layout.folders(store)
    words = f"{share:.0%} of {len(digests)} documents examined are not in the store {path_text(store)}, and are computed anew"
    if layout.folder_of(store, states.identity) not in folders:
        words += f": it has states of {len(folders)} other models, versions or machines, and none of {label_of(reranker)}"
    return Finding(
        name="not-prepared",
        severity="warning" if share >= WARNING_SHARE else "note",
        value=share,
        words=words,
        advice="run `resift prepare` on all documents that are retrieved from, with the --model, the --document-template and the "
        "kind of machine that rank; `resift store info` shows what the store has",
    )


def _split_graph(reranker: Reranker) -> Graph | None:
    """The graph whose documents can be prepared; None if there is none, or if it has no room for them in pairs so short."""
    if reranker.document_states is None:
        return None
    graph = next(graph for graph in reranker.artifact.manifest.graphs if graph.split is not None)
    assert graph.split is not None
    return graph if _has_room(graph.split, reranker.resolved.max_length) else None


def _has_room(split: Split, max_length: int) -> bool:
    """Whether documents have as many tokens beside the query's slot as queries have."""
    return min(split.document_tokens, max_length - split.query_tokens) >= split.query_tokens


def _readable(evidence: Evidence, split: Split) -> list[CandidatePool]:
    """The pools whose queries fit into their slot: the full graph reads the others alone."""
    tokens = [evidence.tokenizer.encode(pool.query, [""]).query_tokens for pool in evidence.pools]
    return [pool for pool, found in zip(evidence.pools, tokens, strict=True) if found[0] <= split.query_tokens]


def _texts(pools: Sequence[CandidatePool]) -> list[str]:
    """The different documents of the pools."""
    return [*dict.fromkeys(text for pool in pools for text in pool.documents)]


def _digests(reranker: Reranker, texts: Sequence[str]) -> dict[str, bytes]:
    """The digest of each of the texts."""
    return {text: digest for chunk in _chunks(texts) for text, digest in zip(chunk, reranker.document_digests(chunk), strict=True)}


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


class _Cost(NamedTuple):
    """What it takes to prepare a document, in the mean."""

    seconds: float
    bytes: float


def _cost(reranker: Reranker, texts: list[str]) -> _Cost:
    """The cost of some of the texts, with all threads."""
    chosen = _spread(texts, TIMED)
    reranker.prepare(chosen[:WARM_UP])
    began = time.perf_counter()
    states = reranker.prepare(chosen)
    seconds = time.perf_counter() - began
    return _Cost(seconds / len(chosen), sum(each.nbytes for _, each in states) / len(chosen))


def _spread(texts: list[str], limit: int) -> list[str]:
    """At most `limit` of the texts, spread evenly."""
    return texts[:: -(-len(texts) // limit)] if len(texts) > limit else texts
