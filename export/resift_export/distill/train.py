"""train: the two phases of a distillation, from a teacher to a student of fewer layers.

In the first phase, training is layer by layer: each of the student's layers reads the teacher's input to the layers that it
replaces and learns their output, so that all layers learn at once and no errors accumulate. In the second phase, it is end to end:
the student's hidden states and logits learn the teacher's, and the hidden state that the head reads counts once more. Hidden states
are hundreds of numbers per token, whereas logits are one per pair (TinyBERT, arXiv:1909.10351, learns both, too).

transformers' Trainer and accelerate are not used: layer by layer, there is no forward pass of one model, and a killed run has to
resume to the same weights, which is simple in one loop whose draws are a function of their position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from resift.errors import ExportError, OutputError
from resift_export.distill.batches import padded_batches
from resift_export.distill.development import Reference
from resift_export.distill.state import AVERAGES, REFERENCE, STUDENT
from resift_export.distill.student import run, run_layers, squared_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resift.encoding.encodings import Encodings
    from resift.encoding.tokenizer import PairTokenizer
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.distill.batches import PaddedBatch
    from resift_export.distill.data import Draws
    from resift_export.distill.recipe import DistillRecipe
    from resift_export.distill.state import State
    from resift_export.distill.student import Outputs

MAX_GRADIENT_NORM = 1.0
"""Largest norm of a step's gradient."""
WEIGHT_DECAY = 0.01
"""Weight decay of matrices; biases and norms have none."""
BETAS = (0.9, 0.98)
OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq")
"""Names of the values that AdamW stores for each parameter."""


@dataclass
class Trainer:
    """A teacher, its student and the progress of its training."""

    checkpoint: Checkpoint
    student: Any
    recipe: DistillRecipe
    draws: Draws
    tokenizer: PairTokenizer
    device: torch.device
    reference: Reference | None = None

    def __post_init__(self) -> None:
        self.teacher = self.checkpoint.model.to(self.device).requires_grad_(requires_grad=False)
        self.student.to(self.device)
        named = [(name, weights) for name, weights in self.student.named_parameters() if weights.requires_grad]
        self._names = [name for name, weights in named if weights.ndim > 1] + [name for name, weights in named if weights.ndim < 2]
        self._weights = dict(named)
        matrices = [weights for _, weights in named if weights.ndim > 1]
        others = [weights for _, weights in named if weights.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}], lr=0.0, betas=BETAS
        )

    def restore(self, state: State) -> None:
        """Continues from `state`. Raises OutputError if its tensors do not belong to this student."""
        self.recipe = state.recipe
        weights_by_name = state.weights()
        if {name: value.shape for name, value in weights_by_name.items()} != {
            name: weights.shape for name, weights in self._weights.items()
        }:
            raise OutputError("the state does not hold this student's weights; delete its folder to start anew")
        with torch.no_grad():
            for name, weights in self._weights.items():
                weights.copy_(weights_by_name[name])
        # The head has no averages before the second phase.
        averages = {
            index: {kind: state.tensors[f"{AVERAGES}{name}.{kind}"] for kind in OPTIMIZER_STATE}
            for index, name in enumerate(self._names)
            if f"{AVERAGES}{name}.{OPTIMIZER_STATE[0]}" in state.tensors
        }
        self._optimizer.load_state_dict({"state": averages, "param_groups": self._optimizer.state_dict()["param_groups"]})
        if REFERENCE in state.tensors:
            self.reference = Reference(state.tensors[REFERENCE], self.recipe.logit_variance, self.recipe.hidden_variances)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that `restore` reads, on the CPU."""
        tensors = {f"{STUDENT}{name}": weights.detach() for name, weights in self._weights.items()}
        averages = self._optimizer.state_dict()["state"]
        for index, name in enumerate(self._names):
            tensors |= {f"{AVERAGES}{name}.{kind}": averages[index][kind] for kind in OPTIMIZER_STATE if index in averages}
        if self.reference:
            tensors[REFERENCE] = self.reference.logits
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def step(self) -> None:
        """Trains on the next draws. Raises ExportError if the loss is not finite."""
        recipe, options = self.recipe, self.recipe.options
        parts: list[Encodings] = []
        position = recipe.position
        while (pairs := sum(len(part) for part in parts)) < options.batch:
            parts.append(self.tokenizer.encode(*self.draws.at(position)))
            position += 1
        tokens, is_local = self._trained_tokens(parts), options.is_local(recipe.pairs)
        hidden = logits = 0.0
        for hidden_loss, *pair_losses in self._losses(parts):
            weighted = [1 / tokens * hidden_loss, *(1 / pairs * loss for loss in pair_losses)]
            torch.autograd.backward(torch.stack(weighted).sum())
            hidden += float(weighted[0].detach())
            logits += 0.0 if is_local else float(weighted[1].detach())
        if not math.isfinite(hidden + logits):
            raise ExportError(f"the loss after {recipe.pairs:,} pairs is not finite; expected it to fall: try a lower --lr")
        for group in self._optimizer.param_groups:
            group["lr"] = options.rate(recipe.pairs)
        torch.nn.utils.clip_grad_norm_(self._weights.values(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.recipe = msgspec.structs.replace(
            recipe,
            pairs=recipe.pairs + pairs,
            steps=recipe.steps + 1,
            position=position,
            losses=recipe.losses.plus(pairs, hidden, None if is_local else logits),
        )

    def run_student(self, batch: PaddedBatch) -> Outputs:
        """The student's outputs for a batch of pairs with one query."""
        return run(self.student, batch)

    def autocast(self) -> torch.autocast:
        """The context that sets the precision of the matrix products."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.options.dtype == "bfloat16")

    def _goals(self, batch: PaddedBatch) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """The teacher's embeddings, the output that each of the student's layers should learn, and the teacher's logits."""
        with torch.no_grad():
            teacher = run(self.teacher, batch)
        return teacher.hidden_states[0], [teacher.hidden_states[layer + 1] for layer in self.recipe.keep], teacher.logits

    def _trained_tokens(self, parts: Sequence[Encodings]) -> int:
        """Number of tokens over which the loss of hidden states is summed."""
        return sum(int(part.lengths.sum()) for part in parts)

    def _losses(self, parts: Sequence[Encodings]) -> Iterator[list[torch.Tensor]]:
        """The losses of the pairs, batch by batch: of hidden states, summed over tokens, then others, summed over pairs."""
        is_local = self.recipe.options.is_local(self.recipe.pairs)
        for batch in padded_batches(self.checkpoint, parts, self.device):
            yield self._local_losses(batch) if is_local else self._end_to_end_losses(batch)

    def _local_losses(self, batch: PaddedBatch) -> list[torch.Tensor]:
        """The loss of hidden states, summed over tokens."""
        with self.autocast():
            embeddings, goals, _ = self._goals(batch)
            outputs = run_layers(self.student, batch, [embeddings, *goals[:-1]])
        return [squared_errors(outputs, goals, batch, self.recipe.hidden_variances)]

    def _end_to_end_losses(self, batch: PaddedBatch) -> list[torch.Tensor]:
        """The losses of hidden states, summed over tokens, and of logits and the first token's state, summed over pairs."""
        with self.autocast():
            _, goals, logits = self._goals(batch)
            student = run(self.student, batch)
        first_token_loss = (student.hidden_states[-1][:, 0].float() - goals[-1][:, 0].float()).square().mean(dim=1).sum()
        return [
            squared_errors(student.hidden_states[1:], goals, batch, self.recipe.hidden_variances),
            (student.logits - logits).square().mean(dim=1).sum() / self.recipe.logit_variance,
            first_token_loss / self.recipe.hidden_variances[-1],
        ]
