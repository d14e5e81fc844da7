"""DistillRecipe: recipe.json beside a student, which records how it was made and its figures."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import msgspec

from resift.artifact.fields import Strict
from resift.files.json_decoding import decode_json
from resift.files.whole import read_whole
from resift_export.distill.options import Options

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = "recipe.json"
RECIPE_LIMIT = 1 << 24
"""Maximum size of a recipe.json in bytes; one has some 10 kB."""
FORMAT = 1


class DataFile(Strict, frozen=True, kw_only=True):
    """A file that was read."""

    name: str
    sha256: str
    rows: int


class Weights(Strict, frozen=True, kw_only=True):
    """A checkpoint."""

    id: str
    """its hub id, or its folder's name"""
    revision: str | None
    """the hub's commit; None for a folder"""
    architecture: str
    layers: int
    sha256: dict[str, str]
    """digests of its weights and its configuration, by file name"""
    recipe: dict[str, Any] | None = None
    """its own recipe, if it is a student"""


class TrainingRun(Strict, frozen=True, kw_only=True):
    """One process that trained. With other threads, processors or versions, the last bits of the weights may differ."""

    first_pair: int
    last_pair: int
    seconds: float
    """wall time, which includes time during which the process was stopped"""
    device: str
    threads: int
    versions: dict[str, str]


class Losses(Strict, frozen=True, kw_only=True):
    """Sums of the training losses since the last figures."""

    pairs: int = 0
    hidden: float = 0.0
    end_to_end_pairs: int = 0
    logits: float = 0.0

    def plus(self, pairs: int, hidden: float, logits: float | None) -> Losses:
        """The sums with one more step of `pairs` pairs. `hidden` and `logits`: means per pair; `logits` is None layer by layer."""
        return Losses(
            pairs=self.pairs + pairs,
            hidden=self.hidden + pairs * hidden,
            end_to_end_pairs=self.end_to_end_pairs + (0 if logits is None else pairs),
            logits=self.logits + pairs * (logits or 0.0),
        )

    @property
    def mean_hidden(self) -> float | None:
        """The mean loss of hidden states; None before the first step."""
        return self.hidden / self.pairs if self.pairs else None

    @property
    def mean_logits(self) -> float | None:
        """The mean loss of logits; None before the first step from end to end."""
        return self.logits / self.end_to_end_pairs if self.end_to_end_pairs else None


class Figures(Strict, frozen=True, kw_only=True):
    """The student after `pairs` pairs, measured on the development pools."""

    pairs: int
    overlap: float
    """mean share of the teacher's top 10 (the top half of pools below 20) that is in the student's top 10"""
    first_look: float | None
    """mean share of the teacher's top 10 that is among the student's best 15, in pools of 20 or more; None without such pools"""
    tau: float
    """mean Kendall tau-b"""
    ndcg: float | None
    """nDCG@10 within the labelled pools; None without such pools"""
    teacher_ndcg: float | None
    logit_error: float
    """mean squared difference from the teacher's logits, as a multiple of their variance"""
    train_hidden: float | None
    """mean squared difference of hidden states in training since the last figures, as a multiple of their variance; None at the
    start"""
    train_logits: float | None
    """the same for logits; None at the start and layer by layer"""

    def summary(self) -> str:
        """One line for a log."""
        parts = [f"after {self.pairs:,} pairs: top-10 overlap {self.overlap:.4f}"]
        if self.first_look is not None:
            parts.append(f"top 10 among best 15 {self.first_look:.4f}")
        parts.append(f"tau {self.tau:.4f}")
        if self.ndcg is not None:
            parts.append(f"nDCG@10 {self.ndcg:.4f} (teacher {self.teacher_ndcg:.4f})")
        return ", ".join([*parts, f"logit error {self.logit_error:.4f}"])


class DistillRecipe(Strict, frozen=True, kw_only=True):
    """recipe.json: with the same teacher, data and options, training makes the same student again."""

    format: int = FORMAT
    teacher: Weights
    start: Weights | None
    """the student that training started from; None: the teacher's own layers"""
    options: Options
    keep: tuple[int, ...]
    """the teacher's layers whose outputs the student learnt"""
    data: list[DataFile]
    exclude: list[DataFile]
    train_pools: int
    development_pools: int
    excluded_pools: int
    unused_pools: int
    long_pools: int = 0
    """number of pools left out because their query is too long for a split student"""
    hidden_variances: tuple[float, ...] = ()
    """variances of the teacher's hidden states in the development pools, by retained layer"""
    logit_variance: float = 0.0
    pairs: int = 0
    """number of pairs trained on so far"""
    steps: int = 0
    position: int = 0
    """number of visits to pools so far"""
    losses: Losses = Losses()
    runs: tuple[TrainingRun, ...] = ()
    curve: tuple[Figures, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether training has used its whole budget; with a budget of 0 pairs, whether the curve has its first figures."""
        return bool(self.curve) and self.pairs >= self.options.pairs

    def command(self) -> str:
        """The command line that makes the student again, with names in place of paths."""
        options = self.options
        words = ["resift", "distill", self.teacher.id, "OUT", "--keep", ",".join(map(str, self.keep))]
        if self.teacher.revision:
            words += ["--revision", self.teacher.revision]
        if self.start:
            words += ["--from", self.start.id]
        for flag, value in (
            ("--width", options.width),
            ("--split", options.split),
            ("--pairs", options.pairs),
            ("--batch", options.batch),
            ("--max", options.candidates),
            ("--local", options.local),
            ("--decay", options.decay),
            ("--lr", options.lr),
            ("--max-length", options.max_length),
            ("--dev", options.development),
            ("--dev-pools", options.development_pools),
            ("--evaluate", options.evaluate),
            ("--seed", options.seed),
            ("--dtype", options.dtype),
        ):
            words += [flag, str(value)] if value is not None else []
        words += ["--data", *(file.name for file in self.data)]
        if self.exclude:
            words += ["--exclude", *(file.name for file in self.exclude)]
        return shlex.join(words)

    def differences(self, expected: DistillRecipe) -> list[str]:
        """One phrase for each choice in which this recipe differs from the `expected` one, such as "lr 0.1 instead of 0.2"."""
        found, requested = self._inputs(), expected._inputs()
        return [f"{name} {found[name]} instead of {requested[name]}" for name in found if found[name] != requested[name]]

    def _inputs(self) -> dict[str, str]:
        options = {name: value for name, value in msgspec.structs.asdict(self.options).items() if name not in ("keep", "layers")}
        files = {"data": self.data, "exclude": self.exclude}
        return {
            "teacher": _brief(self.teacher),
            "--from": _brief(self.start),
            "--keep": ",".join(map(str, self.keep)),
            **{
                name: ", ".join(f"{file.name} ({file.sha256[:12]})" for file in data_files) or "none"
                for name, data_files in files.items()
            },
            **{name: str(value) for name, value in options.items()},
        }

    def to_json(self) -> bytes:
        """The content of recipe.json, with the command line for readers."""
        content = {**msgspec.to_builtins(self), "finished": self.is_finished, "command": self.command()}
        return msgspec.json.format(msgspec.json.encode(content), indent=1)


def decode_recipe(content: bytes) -> DistillRecipe:
    """A recipe from the content of recipe.json. Raises ValueError if the content is not a recipe."""
    fields = decode_json(content)
    if isinstance(fields, dict):
        fields = {name: value for name, value in fields.items() if name not in ("finished", "command")}
    return msgspec.convert(fields, DistillRecipe)


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """The recipe of a checkpoint that is a student, as plain JSON; None for other checkpoints."""
    try:
        content = read_whole(folder / RECIPE, RECIPE_LIMIT)
        decode_recipe(content)
    except (OSError, ValueError):
        return None
    recipe: dict[str, Any] = decode_json(content)
    return recipe


def _brief(weights: Weights | None) -> str:
    if weights is None:
        return "none"
    return f"{weights.id} ({', '.join(f'{name} {digest[:12]}' for name, digest in weights.sha256.items())})"
