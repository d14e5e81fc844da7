"""What `Reranker.submit` returns, made up."""

from __future__ import annotations

import numpy as np

from resift import Scored


def columns_of(logits, **given) -> Scored:
    """Columns of documents with these logits, which are their scores; nothing was cut. `given`: columns that differ."""
    values = np.array(logits, np.float32)
    cut = np.array(given.pop("tokens_cut", np.zeros(len(values))), np.int32)
    columns = {
        "logits": values,
        "scores": values,
        "tokens_cut": cut,
        "tokens_cut_at_least": np.zeros(len(values), np.bool_),
        "query_tokens_cut": 0,
        "lengths": np.full(len(values), 192, np.int32),
    }
    return Scored(**{**columns, **given})
