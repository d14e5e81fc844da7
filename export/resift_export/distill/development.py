"""development: measures how the student ranks pools on which it is never trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resift.errors import ExportError
from resift.metrics import TOP, kendall_tau, ndcg, top_overlap
from resift.pools.trec import checked_label
from resift.scoring import relevance
from resift_export.distill.batches import padded_batches
from resift_export.distill.recipe import Figures
from resift_export.distill.student import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from resift.encoding.encodings import Encodings
    from resift.pools.reading import CandidatePool
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.distill.batches import PaddedBatch
    from resift_export.distill.recipe import DistillRecipe
    from resift_export.distill.student import Outputs

FIRST_LOOK_SIZE = 15
"""Number of candidates that a first look retains, which should include the teacher's top 10."""


@dataclass(frozen=True)
class Reference:
    """The teacher's outputs for the development pools."""

    logits: torch.Tensor
    """float32[pairs, labels], pool by pool"""
    logit_variance: float
    hidden_variances: tuple[float, ...]
    """by retained layer: mean variance of a component of the hidden states over all tokens"""


class Development:
    """The development pools, encoded."""

    def __init__(self, checkpoint: Checkpoint, pools: Sequence[CandidatePool], encodings: Sequence[Encodings]) -> None:
        self._checkpoint = checkpoint
        self._pools = pools
        self._encodings = encodings

    def reference(
        self, teacher: Any, keep: Sequence[int], device: torch.device, should_continue: Callable[[], bool]
    ) -> Reference | None:
        """The teacher's logits and the variances of its outputs; None once `should_continue` returns False.

        Raises ExportError if its outputs are the same for all pairs or not finite.
        """
        sums = torch.zeros(len(keep), 2, teacher.config.hidden_size, dtype=torch.float64, device=device)
        tokens = 0

        def add(batch: PaddedBatch, hidden_states: Sequence[torch.Tensor]) -> None:
            nonlocal tokens
            tokens += batch.tokens
            for index, layer in enumerate(keep):
                states = (
                    hidden_states[layer + 1].flatten(0, 1) if batch.mask is None else hidden_states[layer + 1][batch.mask.bool()]
                )
                sums[index] += torch.stack([states.double().sum(dim=0), states.double().square().sum(dim=0)])

        logits = self._logits(partial(run, teacher), device, should_continue, add)
        if logits is None:
            return None
        means, squares = (sums / tokens).unbind(dim=1)
        variances = tuple((squares - means.square()).mean(dim=1).tolist())
        variance = float(logits.double().var(correction=0))
        if not np.isfinite([variance, *variances]).all():
            raise ExportError("the teacher's outputs for the development pools are not finite; expected a trained cross-encoder")
        if not min(variance, *variances) > 0:
            raise ExportError("the teacher gives all development pairs the same outputs; expected a trained cross-encoder")
        return Reference(logits, variance, variances)

    def figures(
        self,
        run_student: Callable[[PaddedBatch], Outputs],
        recipe: DistillRecipe,
        reference: Reference,
        device: torch.device,
        should_continue: Callable[[], bool],
    ) -> Figures | None:
        """The figures of the student as `recipe` has trained it so far; None once `should_continue` returns False."""
        logits = self._logits(run_student, device, should_continue)
        if logits is None:
            return None
        compared = list(zip(self._by_pool(reference.logits), self._by_pool(logits), strict=True))
        recalls = [first_look_recall(*pair) for pair in compared if len(pair[0]) >= 2 * TOP]
        labelled = [(labels, *pair) for labels, pair in zip(map(labels_of, self._pools), compared, strict=True) if labels]
        return Figures(
            pairs=recipe.pairs,
            overlap=float(np.mean([top_overlap(*pair) for pair in compared])),
            first_look=float(np.mean(recalls)) if recalls else None,
            tau=float(np.mean([kendall_tau(*pair) for pair in compared])),
            ndcg=float(np.mean([ndcg(labels, found) for labels, _, found in labelled])) if labelled else None,
            teacher_ndcg=float(np.mean([ndcg(labels, found) for labels, found, _ in labelled])) if labelled else None,
            logit_error=float((logits - reference.logits).double().square().mean()) / reference.logit_variance,
            train_hidden=recipe.losses.mean_hidden,
            train_logits=recipe.losses.mean_logits,
        )

    def _logits(
        self,
        run_model: Callable[[PaddedBatch], Outputs],
        device: torch.device,
        should_continue: Callable[[], bool],
        on_batch: Callable[[PaddedBatch, Sequence[torch.Tensor]], None] | None = None,
    ) -> torch.Tensor | None:
        """Logits float32[pairs, labels] on the CPU, pool by pool; None once `should_continue` returns False.

        `on_batch` is called with each batch and its hidden states.
        """
        parts = []
        for encodings in self._encodings:
            logits = torch.empty(len(encodings), self._checkpoint.signature.labels)
            for batch in padded_batches(self._checkpoint, [encodings], device):
                if not should_continue():
                    return None
                with torch.inference_mode():
                    outputs = run_model(batch)
                    if on_batch is not None:
                        on_batch(batch, outputs.hidden_states)
                logits[batch.rows] = outputs.logits.cpu()
            parts.append(logits)
        return torch.cat(parts)

    def _by_pool(self, logits: torch.Tensor) -> list[NDArray[np.float32]]:
        """The relevance by which each pool is ranked."""
        ranking_logits = relevance(logits.numpy(), self._checkpoint.relevance)
        return np.split(ranking_logits, np.cumsum([len(pool.documents) for pool in self._pools])[:-1])


def first_look_recall(
    reference: NDArray[np.floating], student: NDArray[np.floating], top: int = TOP, size: int = FIRST_LOOK_SIZE
) -> float:
    """The share of the best `top` by `reference` that is among the best `size` by `student`."""
    best, retained = (
        set(np.argsort(-values, kind="stable")[:count].tolist()) for values, count in ((reference, top), (student, size))
    )
    return len(best & retained) / len(best)


def labels_of(pool: CandidatePool) -> list[int] | None:
    """The graded relevance of the pool's candidates, 0 for those without a label; None if no candidate is relevant.

    Raises InputError for a label beyond any grade.
    """
    labels = [fields.get("label") for fields in pool.fields]
    where = f"the pool of the query {pool.query[:60]!r}"
    grades = [checked_label(label, where) if isinstance(label, int) else 0 for label in labels]
    return grades if any(grades) else None
