"""What benchmarks measure with: the pools of the built-in gate, and pools and a checkpoint that may lie beside the project."""

from __future__ import annotations

import os
from pathlib import Path

import resift_export
from resift.pools.reading import CandidatePool

REPOSITORY = Path(__file__).parent.parent
SHARED = Path(os.environ.get("RESIFT_SHARED", REPOSITORY.parent / "shared"))
CHECKPOINT = SHARED / "models" / "ms-marco-MiniLM-L12-v2"
HUB_ID = "cross-encoder/ms-marco-MiniLM-L12-v2"
EVALUATION = SHARED / "data" / "eval"
GATE_POOLS = Path(resift_export.__file__).parent / "data" / "gate.jsonl"


def pools_of_size(pools: list[CandidatePool], size: int, queries: int) -> list[CandidatePool]:
    """The first `queries` pools with `size` candidates each: the pool's own first, then those of other pools with the label 0."""
    chosen = []
    for number, pool in enumerate(pools[:queries]):
        rest = pools[number + 1 :] + pools[:number]
        texts = pool.documents + [text for other in rest for text in other.documents]
        labels = [fields.get("label", 0) for fields in pool.fields] + [0] * len(texts)
        chosen.append(CandidatePool(pool.query, texts[:size], pool.qid, [{"label": label} for label in labels[:size]]))
    return chosen
