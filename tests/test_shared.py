"""The real checkpoint and real queries, if the shared material is available."""

from __future__ import annotations

import numpy as np

from resift import Reranker
from resift.metrics import kendall_tau, top_overlap
from resift.pools.source import read_pools
from resift_export.checkpoint import load as checkpoint


def test_the_embedded_model_ranks_as_its_checkpoint_on_real_pools(shared):
    loaded = checkpoint.load(str(shared / "models" / "ms-marco-MiniLM-L12-v2"))
    pools = list(read_pools(shared / "data" / "eval" / "dl19.jsonl.gz"))[:4]
    with Reranker.load() as reranker:
        found = [reranker.logits(pool.query, pool.documents[:20]) for pool in pools]
    references = [loaded.reference(pool.query, pool.documents[:20]) for pool in pools]
    assert np.mean([kendall_tau(*pair) for pair in zip(references, found, strict=True)]) >= 0.95
    assert np.mean([top_overlap(*pair) for pair in zip(references, found, strict=True)]) >= 0.9
