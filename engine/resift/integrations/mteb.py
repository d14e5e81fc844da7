"""MTEB: a Reranker as a cross-encoder of mteb 2 (https://embeddings-benchmark.github.io/mteb/), for tasks on text (no extra)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.errors import ExtraError, InputError
from resift.inputs import runs
from resift.pools.collection import score_pools
from resift.pools.reading import CandidatePool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from resift.reranker import Reranker


class MtebCrossEncoder:
    """A loaded Reranker, which the caller closes, by mteb's CrossEncoderProtocol.

    mteb.evaluate(MtebCrossEncoder(reranker), mteb.get_tasks(tasks=["AskUbuntuDupQuestions"]))
    """

    def __init__(self, reranker: Reranker) -> None:
        """Raises ExtraError if mteb cannot be imported."""
        try:
            models = import_module("mteb.models")
        except ImportError as error:
            raise ExtraError(f"MtebCrossEncoder needs mteb 2, which cannot be imported ({error}): pip install 'mteb>=2'") from error
        artifact = reranker.artifact
        model = artifact.manifest.model.id
        self.reranker = reranker
        self.mteb_model_meta = models.ModelMeta.create_empty(
            overwrites={
                "name": f"resift/{model.rpartition('/')[2]}",
                "revision": artifact.fingerprint(),
                "model_type": ["cross-encoder"],
                "max_tokens": reranker.resolved.max_length,
                "adapted_from": model,
            }
        )
        """what mteb records with the results; the revision is the artifact's fingerprint"""

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Any]],
        inputs2: Iterable[Mapping[str, Any]],
        **_: Any,
    ) -> NDArray[np.float32]:
        """The logits float32[n] of n pairs, by which a sigmoid makes no ties.

        `inputs1`, `inputs2`: batches whose `text` is a list, of queries and of as many documents. What else mteb passes about a
        task has no effect. Raises InputError for batches without text, and otherwise like `Reranker.score_pairs`.
        """
        pairs = zip(_texts(inputs1), _texts(inputs2), strict=True)
        pools = (CandidatePool(run.query, run.documents) for run in runs(pairs))
        return np.concatenate([np.empty(0, np.float32), *(scored.logits for _, scored in score_pools(self.reranker, pools))])


def _texts(batches: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for batch in batches:
        if "text" not in batch:
            raise InputError(f"mteb's task has {', '.join(map(str, batch))}, but no text; expected a task on text")
        yield from batch["text"]
