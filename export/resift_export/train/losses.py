"""losses: sentence-transformers' losses by name, and which of them data is for.

Each reads logits: a sigmoid before a loss that compares documents would level their differences where they are large. The
activation that a checkpoint declares for its scores plays no part in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers.cross_encoder import losses

from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from resift.artifact.manifest import Activation
    from resift.pools.training_pairs import TrainingPairs
    from resift_export.train.options import Loss, TrainOptions

SAMPLE = 64
"""Queries by which a teacher's scores are compared with the checkpoint's."""
FAMILIAR = 0.02
"""Mean squared difference of margins, as a share of their variance, below which a teacher has nothing to teach."""


def loss_of(name: Loss, encoder: Any) -> Any:
    """The loss of sentence-transformers for rows of that name; see `visits.rows`."""
    identity = torch.nn.Identity()
    if name == "bce":
        return losses.BinaryCrossEntropyLoss(encoder, activation_fn=identity)
    if name == "infonce":
        # With one certain document, ListNet's cross entropy is InfoNCE over the listed documents, and over no other query's,
        # which might be answers, too.
        return losses.ListNetLoss(encoder, activation_fn=identity, mini_batch_size=-1)
    return losses.MarginMSELoss(encoder, activation_fn=identity)


def general_loss(encoder: Any) -> Any:
    """The loss that keeps the scores of general pairs."""
    return losses.MSELoss(encoder, activation_fn=torch.nn.Identity())


def activation_after(name: Loss, before: Activation) -> Activation:
    """The activation that the trained checkpoint declares: bce leaves the meaning of a logit, the others keep none."""
    return before if name == "bce" else "identity"


def choose(
    queries: Sequence[TrainingPairs], options: TrainOptions, score: Callable[[Sequence[tuple[str, str]]], NDArray[np.float32]]
) -> Loss:
    """The loss for these queries, to each of which `score` gives the checkpoint's logits.

    Raises InputError for marginmse without a teacher's score of each document, or if the checkpoint gives the same scores.
    """
    if options.loss in ("bce", "infonce"):
        return options.loss
    unscored = sum(not pairs.is_scored() for pairs in queries)
    if unscored:
        if options.loss == "auto":
            return "bce"
        raise InputError(
            f"marginmse learns a teacher's scores, but {unscored} of {len(queries)} queries have documents without a score; use "
            "--loss bce, or mine with a teacher"
        )
    if _difference(queries, score) >= FAMILIAR:
        return "marginmse"
    if options.loss == "auto":
        return "bce"
    raise InputError(
        "marginmse learns a teacher's scores, but the checkpoint gives these documents the same ones already: it would learn "
        "nothing; use --loss bce, or mine with a stronger teacher"
    )


def _difference(queries: Sequence[TrainingPairs], score: Callable[[Sequence[tuple[str, str]]], NDArray[np.float32]]) -> float:
    """The mean squared difference of the teacher's and the checkpoint's margins, as a share of the variance of the teacher's."""
    sample = [(pairs.query, pairs.positive[0], pairs.negative[0]) for pairs in queries[:SAMPLE]]
    logits = score([(query, document.text) for query, *documents in sample for document in documents])
    teacher = np.array([(answer.score or 0.0) - (negative.score or 0.0) for _, answer, negative in sample])
    margins = logits[0::2] - logits[1::2]
    return float(np.mean((margins - teacher) ** 2) / max(float(teacher.var()), 1e-6))
