"""TrainRecipe: recipe.json beside a trained checkpoint, which records how it was trained and what that gained."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import msgspec

from resift.artifact.fields import Strict
from resift.evaluate.results import Difference
from resift.files.json_decoding import decode_json
from resift_export.distill.recipe import DataFile, Weights
from resift_export.train.options import Loss, TrainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
POINT = 0.01


class Comparison(Strict, frozen=True, kw_only=True):
    """Measures of the checkpoint before and after the training, on the same pools."""

    name: str
    pools: int
    pairs: int
    before: dict[str, float]
    after: dict[str, float]
    differences: dict[str, Difference]
    """after minus before, with the 95 % interval"""


class Figure(Strict, frozen=True, kw_only=True):
    """The training after `step` steps."""

    step: int
    ndcg: float
    """nDCG@10 on the development queries"""
    loss: float | None
    """mean loss since the last figure; None at the start"""


class TrainingProcess(Strict, frozen=True, kw_only=True):
    """The process that finished the training. With other threads, processors or versions, the last bits of weights may differ."""

    seconds: float
    device: str
    threads: int
    versions: dict[str, str]


class TrainRecipe(Strict, frozen=True, kw_only=True):
    """recipe.json: with the same checkpoint, data and options, training makes the same weights again."""

    format: int = FORMAT
    checkpoint: Weights
    options: TrainOptions
    loss: Loss
    data: list[DataFile]
    general: list[DataFile]
    """files of the general pairs; none: the built-in ones"""
    train_queries: int
    development_queries: int
    held_out_queries: int
    groups: int
    """groups of queries that share answers, which were not split"""
    left_out: dict[str, int]
    """queries that were not used, by reason"""
    siblings: int
    """negatives that answered their query elsewhere in the data, and were not used"""
    steps: int
    general_pairs: int
    best_step: int = 0
    curve: tuple[Figure, ...] = ()
    held_out: Comparison | None = None
    guards: tuple[Comparison, ...] = ()
    refusals: tuple[str, ...] = ()
    """why the checkpoint would not have been written without --force"""
    runs: tuple[TrainingProcess, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether the training has come to its end and was measured."""
        return self.held_out is not None

    def command(self) -> str:
        """The command line that trains the same again, with names in place of paths."""
        words = ["resift", "train", self.checkpoint.id, "OUT", "--data", *(file.name for file in self.data)]
        if self.general:
            words += ["--general", *(file.name for file in self.general)]
        if self.checkpoint.revision:
            words += ["--revision", self.checkpoint.revision]
        for flag, name in FLAGS.items():
            words += [flag, str(getattr(self.options, name))]
        return shlex.join(words)

    def differences(self, expected: TrainRecipe) -> list[str]:
        """One phrase for each choice in which this recipe differs from the `expected` one, such as "lr 0.1 instead of 0.2"."""
        found, requested = self._inputs(), expected._inputs()
        return [f"{name} {found[name]} instead of {requested[name]}" for name in found if found[name] != requested[name]]

    def _inputs(self) -> dict[str, str]:
        options: Mapping[str, object] = msgspec.structs.asdict(self.options)
        weights = ", ".join(f"{name} {digest[:12]}" for name, digest in self.checkpoint.sha256.items())
        return {
            "checkpoint": f"{self.checkpoint.id} ({weights})",
            "data": _brief(self.data),
            "general": _brief(self.general),
            **{name: str(value) for name, value in options.items()},
            "pairs": f"of {self.train_queries} queries and {self.general_pairs} general",
        }

    def to_json(self) -> bytes:
        """The content of recipe.json, with the command line for readers."""
        return msgspec.json.format(msgspec.json.encode({**msgspec.to_builtins(self), "command": self.command()}), indent=1)


FLAGS = {
    "--loss": "loss",
    "--epochs": "epochs",
    "--batch": "batch",
    "--negatives": "negatives",
    "--lr": "lr",
    "--warmup": "warmup",
    "--max-length": "max_length",
    "--general-share": "general",
    "--dev": "development",
    "--held-out": "held_out",
    "--evaluations": "evaluations",
    "--seed": "seed",
    "--dtype": "dtype",
}
"""The options of the command line, and the fields of TrainOptions that they set."""


def decode_recipe(content: bytes) -> TrainRecipe:
    """A recipe from the content of recipe.json. Raises ValueError if the content is not a recipe."""
    fields = decode_json(content)
    if isinstance(fields, dict):
        fields = {name: value for name, value in fields.items() if name != "command"}
    return msgspec.convert(fields, TrainRecipe)


def _brief(files: list[DataFile]) -> str:
    return ", ".join(f"{file.name} ({file.sha256[:12]})" for file in files) or "built in"
