"""split_train: the training of a split student, whose first layers keep query and document apart.

None of its layers reads what the teacher's reads, so that there is no phase layer by layer: training is end to end from the start.
The student learns the states that the teacher gives the query's tokens in the later layers, and the logits: as they are, and as
differences from their mean over the candidates of a query, which alone decide the ranking. The document's states have no goal: the
teacher's depend on the query.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from resift_export.distill.batches import padded_batches
from resift_export.distill.student import run_split, squared_errors
from resift_export.distill.train import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resift.encoding.encodings import Encodings
    from resift_export.checkpoint.split import SplitLayout
    from resift_export.distill.batches import PaddedBatch
    from resift_export.distill.student import Outputs

GROUP_SIZE = 8
"""Maximum number of candidates in a batch. They are those of one query, whose lengths differ more than those of many."""


@dataclass
class SplitTrainer(Trainer):
    """A teacher, its split student and the progress of its training."""

    @property
    def layout(self) -> SplitLayout:
        """How the student is split."""
        layout = self.recipe.options.layout
        assert layout is not None
        return layout

    def run_student(self, batch: PaddedBatch) -> Outputs:
        """The student's outputs for a batch of pairs with one query."""
        return run_split(self.student, self.layout, batch)

    def _trained_tokens(self, parts: Sequence[Encodings]) -> int:
        return sum(int(part.query_tokens.sum()) for part in parts)

    def _losses(self, parts: Sequence[Encodings]) -> Iterator[list[torch.Tensor]]:
        """The losses of each query's candidates.

        That of hidden states is summed over the query's tokens; those of logits, of their differences from the query's mean, and of
        the first token's last state are summed over candidates.
        """
        for candidates in parts:
            batches = padded_batches(self.checkpoint, [candidates], self.device, size=GROUP_SIZE)
            hidden, first_tokens, errors = zip(*map(self._errors, batches), strict=True)
            plain = torch.cat(errors)
            centred = plain - plain.mean(dim=0)
            yield [torch.stack(hidden).sum(), self._squared(plain), self._squared(centred), torch.stack(first_tokens).sum()]

    def _squared(self, errors: torch.Tensor) -> torch.Tensor:
        """Squared errors of logits, [n, labels]: mean over labels as a multiple of the variance, sum over candidates."""
        return errors.square().mean(dim=1).sum() / self.recipe.logit_variance

    def _errors(self, batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Squared errors of the hidden states and of the first token's last one, both summed, and errors of logits, [n, labels]."""
        with self.autocast():
            _, goals, logits = self._goals(batch)
            student = self.run_student(batch)
        later = slice(self.layout.layers, None)
        query_goals = [goal[:, : batch.query_tokens] for goal in goals[later]]
        variances = self.recipe.hidden_variances[later]
        # A query is never padded.
        hidden = squared_errors(student.hidden_states, query_goals, replace(batch, mask=None), variances)
        first_tokens = (student.hidden_states[-1][:, 0].float() - query_goals[-1][:, 0].float()).square().mean(dim=1).sum()
        return hidden, first_tokens / variances[-1], student.logits - logits
