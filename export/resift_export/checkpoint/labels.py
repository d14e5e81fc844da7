"""labels: which of a head's labels means relevant, by what the checkpoint calls them and by what the user says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from resift.artifact.manifest import RELEVANCE
from resift.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

POSITIVE = (
    *("relevant", "relevance", "yes", "true", "positive", "pos", "entailment", "entailed", "entails", "match", "matching"),
    *("duplicate", "paraphrase", "equivalent", "same", "similar", "related", "correct", "answer", "supported", "supports"),
)
"""Names of labels that mean relevant, in lower case, without anything but letters and digits."""
NEGATIVE = (
    *("0", "label0", "class0", "no", "false", "negative", "neg", "contradiction", "neutral"),
    *("different", "other", "none", "wrong", "refuted", "refutes"),
)
"""Names of labels that mean not relevant; so do those of POSITIVE with one of NEGATIONS before them."""
NEGATIONS = ("not", "non", "no", "un", "ir", "in", "dis", "mis")
INDEPENDENT = ("multi_label_classification", "regression")
"""Types of problems whose labels do not exclude one another, as transformers names them."""


@dataclass(frozen=True)
class Label:
    """The label that means relevant, in a head with several."""

    number: int
    name: str
    is_independent: bool
    """whether pairs are ranked by its logit, as in a head whose labels do not exclude each other; otherwise by its log-odds"""

    def of(self, logits: torch.Tensor) -> torch.Tensor:
        """The relevance logits [n, 1] by which pairs are ranked, from logits [n, labels].

        The log-odds of the label's softmax probability p, log(p / (1 - p)), are its logit minus the logsumexp of the others.
        """
        logit = logits[:, self.number : self.number + 1]
        if self.is_independent:
            return logit
        others = torch.cat([logits[:, : self.number], logits[:, self.number + 1 :]], dim=1)
        return logit - torch.logsumexp(others, dim=1, keepdim=True)


def label_of(model_config: Any, labels: int, scale: str, relevant_label: str | None, source: str) -> Label | None:
    """The label of that name or number; None for a head that is ranked as it is, by one label, or by the second of two.

    `scale`: the activation of its scores, one of config.ACTIVATIONS. Raises ExportError if there is no such label, or if one has to
    be named and is not.
    """
    names = [str(model_config.id2label.get(number, number)) for number in range(labels)]
    is_independent = model_config.problem_type in INDEPENDENT
    if relevant_label is None:
        if labels not in RELEVANCE:
            raise ExportError(
                f"{source} has {labels} labels ({', '.join(names):.200}); expected those of a reranker: 1 (relevance) or 2 (no, "
                "yes); name the one that means relevant with --relevant-label"
            )
        if labels > 1 and is_independent:
            raise ExportError(
                f"{source} has {labels} labels ({', '.join(names):.200}) that do not exclude one another (problem_type is "
                f"{model_config.problem_type}); expected (no, yes): name the one that means relevant with --relevant-label"
            )
        for named in (names, _names_by_number(model_config.label2id, labels)):
            if labels > 1 and named and _means_relevant_first(named):
                raise ExportError(
                    f"{source} has the labels {', '.join(named):.200}, of which the first seems to mean relevant; expected (no, "
                    "yes), as the second one ranks: name the one that means relevant with --relevant-label, such as 0"
                )
        return None
    if labels == 1:
        raise ExportError(f"{source} has one label, by which it ranks; leave --relevant-label {relevant_label:.80} out")
    number = (
        names.index(relevant_label)
        if relevant_label in names
        else int(relevant_label)
        if relevant_label.isascii() and relevant_label.isdigit()
        else labels
    )
    if number >= labels:
        raise ExportError(
            f"{source} has no label {relevant_label!r:.80}; expected one of {', '.join(names):.200}, or its number from 0"
        )
    return Label(number, names[number], is_independent or scale == "Sigmoid")


def _names_by_number(label2id: Any, labels: int) -> list[str]:
    """The names of all labels by the numbers that `label2id` gives them; none if it has not exactly these."""
    numbers = label2id if isinstance(label2id, dict) else {}
    names = {str(number): str(name) for name, number in numbers.items()}
    return [names[str(number)] for number in range(labels)] if names.keys() == set(map(str, range(labels))) else []


def _means_relevant_first(names: Sequence[str]) -> bool:
    """Whether the names of two labels say that the first one means relevant, such as relevant and irrelevant."""
    first, second = ("".join(filter(str.isalnum, name.lower())) for name in names)
    if second in {f"{negation}{first}" for negation in NEGATIONS}:
        return True
    return (first in POSITIVE and second not in POSITIVE) or (_is_negative(second) and not _is_negative(first))


def _is_negative(name: str) -> bool:
    return name in NEGATIVE or any(name == f"{negation}{word}" for negation in NEGATIONS for word in POSITIVE)
