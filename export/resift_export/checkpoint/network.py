"""network: a checkpoint as one function from token ids to the logits that are ranked, for pairs without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from resift.artifact.manifest import RELEVANCE
from resift.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from resift_export.checkpoint.config import Declared


POOLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cls": lambda tokens: tokens[:, 0],
    "lasttoken": lambda tokens: tokens[:, -1],
    "max": lambda tokens: tokens.amax(1),
    "mean": lambda tokens: tokens.mean(1),
}
"""[b, size] from [b, width, size], by Pooling's name of the mode."""


@dataclass(frozen=True)
class Label:
    """The label of several that means relevant."""

    number: int
    name: str
    is_independent: bool
    """whether its logit alone ranks, as in a head whose labels do not exclude each other; otherwise its log-odds do"""

    def of(self, logits: torch.Tensor) -> torch.Tensor:
        """What pairs are ranked by, [n, 1], from logits [n, labels].

        The log-odds of its softmax probability p: log(p / (1 - p)) is its logit minus the logsumexp of the others.
        """
        own = logits[:, self.number : self.number + 1]
        if self.is_independent:
            return own
        others = torch.cat([logits[:, : self.number], logits[:, self.number + 1 :]], dim=1)
        return own - torch.logsumexp(others, dim=1, keepdim=True)


class Network(torch.nn.Module):
    """Takes inputs int64[b, width] by position and returns logits float32[b, labels]."""

    def __init__(self, model: torch.nn.Module, names: tuple[str, ...], *, encoder: Any | None, label: Label | None) -> None:
        """`names`: those of the inputs; `encoder`: a modular checkpoint's CrossEncoder, whose first module runs `model`."""
        super().__init__()
        self.model = model
        self.names = names
        self.label = label
        self.steps = torch.nn.ModuleList([] if encoder is None else list(encoder)[1:])

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The model, its modules if it has any, and the label if there is a choice."""
        found = self.model(**dict(zip(self.names, inputs, strict=True)))
        logits: torch.Tensor = self._scores(found) if len(self.steps) else found.logits
        return logits if self.label is None else self.label.of(logits)

    def _scores(self, found: Any) -> torch.Tensor:
        """The output of the last module. Each reads and writes features by name, as in sentence-transformers."""
        features = {"scores": found.logits} if "logits" in found else {"token_embeddings": found.last_hidden_state}
        steps: Iterable[Any] = self.steps
        for step in steps:
            if type(step).__name__ == "Pooling":
                features["sentence_embedding"] = pooled(features["token_embeddings"], step.pooling_mode)
            else:
                features = step(features)
        scores: torch.Tensor = features["scores"]
        return scores


def pooled(tokens: torch.Tensor, modes: str | Sequence[str]) -> torch.Tensor:
    """[b, modes x size] from [b, width, size]: what sentence-transformers' Pooling gives without padding.

    Its own reads the attention mask: the traced graph would search it for the first token, and read all of them in the last layer.
    """
    return torch.cat([POOLINGS[mode](tokens) for mode in _modes(modes)], dim=-1)


def _modes(modes: str | Sequence[str]) -> Sequence[str]:
    return [modes] if isinstance(modes, str) else modes


def label_of(config: Any, labels: int, declared: Declared, asked: str | None, source: str) -> Label | None:
    """The label that was `asked` for by name or number. Raises ExportError if there is no such label, or one must be asked for."""
    names = [str(config.id2label.get(number, number)) for number in range(labels)]
    if asked is None:
        if labels in RELEVANCE:
            return None
        raise ExportError(
            f"{source} has {labels} labels ({', '.join(names):.200}); expected those of a reranker: 1 (relevance) or 2 (no, yes); "
            "name the one that means relevant with --relevant-label"
        )
    if labels == 1:
        raise ExportError(f"{source} has one label, by which it ranks; leave --relevant-label {asked:.80} out")
    number = names.index(asked) if asked in names else int(asked) if asked.isascii() and asked.isdigit() else labels
    if number >= labels:
        raise ExportError(f"{source} has no label {asked!r:.80}; expected one of {', '.join(names):.200}, or its number from 0")
    is_independent = config.problem_type in ("multi_label_classification", "regression") or declared.scale(labels) == "Sigmoid"
    return Label(number, names[number], is_independent)


def check_steps(encoder: Any, prompt: str, source: str) -> None:
    """Raises ExportError if a module is set up in a way that `Network` does not follow, or none of them gives scores."""
    for step in [step for step in encoder if type(step).__name__ == "Pooling"]:
        if other := [mode for mode in _modes(step.pooling_mode) if mode not in POOLINGS]:
            raise ExportError(f"the Pooling of {source} has the mode {other[0]}; expected {', '.join(POOLINGS)}")
        if prompt and not step.include_prompt:
            raise ExportError(
                f"the Pooling of {source} leaves the prompt out (include_prompt is false); expected it to read all tokens"
            )
    last = list(encoder)[-1]
    if len(encoder) == 1 or getattr(last, "module_output_name", None) != "scores":
        raise ExportError(
            f"the last module of {source}, {type(last).__name__}, gives no scores; expected one whose module_output_name "
            "is scores, as a CrossEncoder has"
        )
