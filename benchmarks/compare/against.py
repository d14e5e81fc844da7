"""The regression guard: which ratios to rivals fell since an earlier report, and which of them by more than noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.compare.catalogue import BY_NAME
from benchmarks.compare.figures import COSTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RESAMPLES = 2_000
SEED = 7
LEVEL = 0.99
"""How sure a fall must be to count as more than noise."""
COMPARED = ("processor", "cores", "instruction_sets", "system")
"""Facts by which a machine is the same."""


class MachineError(Exception):
    """A report of another machine, or of another format."""


@dataclass(frozen=True)
class Change:
    """A ratio that fell: a rival's cost divided by that of one of resift's contenders."""

    case: str
    contender: str
    rival: str
    cost: str
    before: float
    after: float
    is_certain: bool
    """whether the fall is more than noise"""

    def __str__(self) -> str:
        kind = "FELL" if self.is_certain else "fell, within noise"
        return f"{kind:20} {self.case:16} {self.cost:12} {self.rival} / {self.contender}: {self.before:.2f} -> {self.after:.2f}"


def falls(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The ratios that fell, the certain falls first. Raises MachineError unless both reports are of the same machine and format."""
    check(before, after)
    random = np.random.default_rng(SEED)
    older, newer = _ratios(before["turns"]), _ratios(after["turns"])
    changes = [
        Change(*key, float(np.median(older[key])), float(np.median(values)), is_certain=_has_fallen(older[key], values, random))
        for key, values in newer.items()
        if key in older and np.median(values) < np.median(older[key])
    ]
    return sorted(changes, key=lambda change: (not change.is_certain, change.after / change.before))


def check(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raises MachineError unless both reports can be compared."""
    if before.get("format") != after["format"]:
        raise MachineError(f"the report has format {before.get('format')!r}; expected {after['format']}, of this version")
    for fact in COMPARED:
        theirs, ours = before["machine"].get(fact), after["machine"].get(fact)
        if theirs != ours:
            raise MachineError(
                f"the report is of another machine: its {fact} is {theirs!r}, here it is {ours!r}; compare reports of one"
            )


def _ratios(turns: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str, str], np.ndarray]:
    """By case, contender of resift's, rival and cost: the ratio of every turn."""
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for turn in turns:
        for ours, rival in _pairs(turn["answers"]):
            for cost in COSTS:
                mine, theirs = turn["answers"][ours].get(cost), turn["answers"][rival].get(cost)
                if mine and theirs:
                    found.setdefault((turn["case"], ours, rival, cost), []).append(theirs / mine)
    return {key: np.array(values) for key, values in found.items()}


def _pairs(names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    ours = [name for name in names if name in BY_NAME and BY_NAME[name].is_resift]
    return ((name, rival) for name in ours for rival in names if rival not in ours)


def _has_fallen(before: np.ndarray, after: np.ndarray, random: np.random.Generator) -> bool:
    """Whether the median fell in LEVEL of the resamplings of both (a bootstrap of the difference); never with fewer than three."""
    if min(len(before), len(after)) < 3:
        return False
    medians = [np.median(random.choice(values, (RESAMPLES, len(values))), axis=1) for values in (before, after)]
    return float(np.mean(medians[1] < medians[0])) >= LEVEL
