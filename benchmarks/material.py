"""The cases that benchmarks share: the built-in gate's pools, short ones, what lies beside the project, and lengths of pairs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import resift_export
from resift.pools.reading import CandidatePool
from resift.pools.source import read_pools

if TYPE_CHECKING:
    from collections.abc import Iterable

REPOSITORY = Path(__file__).parent.parent
SHARED = Path(os.environ.get("RESIFT_SHARED", REPOSITORY.parent / "shared"))
CHECKPOINT = SHARED / "models" / "ms-marco-MiniLM-L12-v2"
HUB_ID = "cross-encoder/ms-marco-MiniLM-L12-v2"
EVALUATION = SHARED / "data" / "eval"
LABELLED = {name: EVALUATION / f"{name}.jsonl.gz" for name in ("dl19", "nq_utd", "scifact")}
"""Labelled pools of real queries; the first are the main ones."""
GATE_POOLS = Path(resift_export.__file__).parent / "data" / "gate.jsonl"
SHORT_POOLS = sorted(Path(__file__).parent.glob("short_*.jsonl"))
TOKENS = (95, 256, 512)
"""Tokens of a pair with a passage, with a long passage, and with what a BERT reads at most."""


def gate_pools() -> list[CandidatePool]:
    return list(read_pools(GATE_POOLS))


def words_in(pools: Iterable[CandidatePool]) -> list[str]:
    """Every word of their documents, as often as it is there: what random documents are drawn from."""
    return " ".join(text for pool in pools for text in pool.documents).split()


def pools_of_size(pools: list[CandidatePool], size: int, queries: int) -> list[CandidatePool]:
    """The first `queries` pools with `size` candidates each: the pool's own first, then those of other pools with the label 0."""
    chosen = []
    for number, pool in enumerate(pools[:queries]):
        rest = pools[number + 1 :] + pools[:number]
        texts = pool.documents + [text for other in rest for text in other.documents]
        labels = [fields.get("label", 0) for fields in pool.fields] + [0] * len(texts)
        chosen.append(CandidatePool(pool.query, texts[:size], pool.qid, [{"label": label} for label in labels[:size]]))
    return chosen
