"""development: how the student ranks pools that it was never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resift.errors import ExportError
from resift.metrics import TOP, kendall_tau, ndcg, top_overlap
from resift.scoring import relevance
from resift_export.distill.batches import padded
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

LOOK = 15
"""Candidates that a first look keeps, among which the teacher's top 10 should be."""


@dataclass(frozen=True)
class Reference:
    """What the teacher gives for the development pools."""

    logits: torch.Tensor
    """float32[pairs, labels], pool by pool"""
    logit_variance: float
    hidden_variances: tuple[float, ...]
    """by kept layer: mean variance of a component of the hidden states over all tokens"""


class Development:
    """The development pools, encoded."""

    def __init__(self, checkpoint: Checkpoint, pools: Sequence[CandidatePool], encodings: Sequence[Encodings]) -> None:
        self._checkpoint = checkpoint
        self._pools = pools
        self._encodings = encodings

    def reference(self, teacher: Any, keep: Sequence[int], device: torch.device, go_on: Callable[[], bool]) -> Reference | None:
        """The teacher's logits and the variances of its outputs; None if `go_on` ended it.

        Raises ExportError if it gives all pairs the same, or anything that is not finite.
        """
        sums = torch.zeros(len(keep), 2, teacher.config.hidden_size, dtype=torch.float64, device=device)
        tokens = 0

        def add(batch: PaddedBatch, hidden: Sequence[torch.Tensor]) -> None:
            nonlocal tokens
            tokens += batch.tokens
            for place, layer in enumerate(keep):
                states = hidden[layer + 1].flatten(0, 1) if batch.mask is None else hidden[layer + 1][batch.mask.bool()]
                sums[place] += torch.stack([states.double().sum(dim=0), states.double().square().sum(dim=0)])

        logits = self._logits(teacher, device, go_on, add)
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
        self, student: Any, recipe: DistillRecipe, reference: Reference, device: torch.device, go_on: Callable[[], bool]
    ) -> Figures | None:
        """The figures of the student that `recipe` has made so far; None if `go_on` ended it."""
        logits = self._logits(student, device, go_on)
        if logits is None:
            return None
        compared = list(zip(self._by_pool(reference.logits), self._by_pool(logits), strict=True))
        looks = [kept(*pair) for pair in compared if len(pair[0]) >= 2 * TOP]
        labelled = [(labels, *pair) for labels, pair in zip(map(labels_of, self._pools), compared, strict=True) if labels]
        return Figures(
            pairs=recipe.pairs,
            overlap=float(np.mean([top_overlap(*pair) for pair in compared])),
            first_look=float(np.mean(looks)) if looks else None,
            tau=float(np.mean([kendall_tau(*pair) for pair in compared])),
            ndcg=float(np.mean([ndcg(labels, found) for labels, _, found in labelled])) if labelled else None,
            teacher_ndcg=float(np.mean([ndcg(labels, found) for labels, found, _ in labelled])) if labelled else None,
            logit_error=float((logits - reference.logits).double().square().mean()) / reference.logit_variance,
            train_hidden=recipe.losses.mean_hidden,
            train_logits=recipe.losses.mean_logits,
        )

    def _logits(
        self,
        model: Any,
        device: torch.device,
        go_on: Callable[[], bool],
        see: Callable[[PaddedBatch, Sequence[torch.Tensor]], None] | None = None,
    ) -> torch.Tensor | None:
        """Logits float32[pairs, labels] on the CPU, pool by pool; None if `go_on` ended it. `see` is given all hidden states."""
        found = []
        for encodings in self._encodings:
            logits = torch.empty(len(encodings), self._checkpoint.signature.labels)
            for batch in padded(self._checkpoint, [encodings], device):
                if not go_on():
                    return None
                with torch.inference_mode():
                    outputs = run(model, batch)
                    if see is not None:
                        see(batch, outputs.hidden)
                logits[batch.rows] = outputs.logits.cpu()
            found.append(logits)
        return torch.cat(found)

    def _by_pool(self, logits: torch.Tensor) -> list[NDArray[np.float32]]:
        """What each pool is ranked by."""
        ranked = relevance(logits.numpy(), self._checkpoint.relevance)
        return np.split(ranked, np.cumsum([len(pool.documents) for pool in self._pools])[:-1])


def kept(reference: NDArray[np.floating], found: NDArray[np.floating], top: int = TOP, look: int = LOOK) -> float:
    """Share of the best `top` by `reference` that are among the best `look` by `found`."""
    best, seen = (set(np.argsort(-values, kind="stable")[:size].tolist()) for values, size in ((reference, top), (found, look)))
    return len(best & seen) / len(best)


def labels_of(pool: CandidatePool) -> list[int] | None:
    """The pool's graded relevance, 0 where a candidate has none; None if none is relevant."""
    labels = [fields.get("label") for fields in pool.fields]
    known = [label if isinstance(label, int) and label > 0 else 0 for label in labels]
    return known if any(known) else None
