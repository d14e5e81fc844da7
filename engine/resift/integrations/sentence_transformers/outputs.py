"""Outputs: what the model returns for each pair, with a progress bar as sentence-transformers shows it."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.pools.collection import WINDOW_PAIRS, score_pools
from resift.pools.reading import CandidatePool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from resift.inputs import Candidates
    from resift.reranker import Reranker

log = logging.getLogger(__name__)


def bar_step(batch_size: int, show_progress_bar: bool | None) -> int | None:  # noqa: FBT001 - the caller's argument
    """Pairs that a progress bar counts at a time; None without a bar. By default it is shown if this module logs its progress."""
    is_shown = log.isEnabledFor(logging.INFO) if show_progress_bar is None else bool(show_progress_bar)
    return batch_size if is_shown else None


def outputs_of(reranker: Reranker, pools: list[Candidates], prompt: str, bar_step: int | None) -> NDArray[np.float32]:
    """float32[n, labels]: the outputs of the full graph for each pair, with `prompt` before every query.

    `bar_step`: pairs that a progress bar counts at a time; None: no bar.
    """
    outputs = [np.empty((0, reranker.graph.signature.labels), np.float32)]
    with nullcontext() if bar_step is None else _bar(sum(len(pool.documents) for pool in pools)) as bar:
        for pool, scored in score_pools(reranker, _parts(pools, prompt, bar_step or WINDOW_PAIRS)):
            assert scored.outputs is not None
            outputs.append(scored.outputs)
            if bar is not None:
                bar.update(len(pool.documents))
    return np.concatenate(outputs)


def _parts(pools: list[Candidates], prompt: str, size: int) -> Iterator[CandidatePool]:
    """The pools with the prompt, `size` documents at a time."""
    for pool in pools:
        for start in range(0, len(pool.documents), size):
            yield CandidatePool(prompt + pool.query, pool.documents[start : start + size])


def _bar(pairs: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=pairs, desc="Pairs")
