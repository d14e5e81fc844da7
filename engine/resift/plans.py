"""Plans: which graphs read a pool, and how many candidates each passes on. What a caller says, whatever the artifact."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

FULL, FIRST_LOOK = "full", "first-look"
"""The roles of graphs."""
FAST_KEEP = 10
"""Candidates that `fast` reads in full."""
BALANCED_KEEP = 20
"""Candidates that `balanced` reads in full: with the embedded first look, the fewest within 1 % of nDCG@10 (its model's card)."""
MOST_STAGES = 8
LARGEST_KEEP = 1 << 31
NAME = re.compile("[a-z0-9][a-z0-9-]{0,39}")
"""A role's or a graph's name."""
EXPECTED = "expected 'auto', 'full', 'fast', 'balanced', or stages such as 'first-look:15,full'"


@dataclass(frozen=True, slots=True)
class Stage:
    """One graph's turn. Raises InputError for a value out of range and TypeError for one of the wrong type."""

    graph: str
    """a role (full or first-look, of which the artifact's first graph is meant) or the name of one of the artifact's graphs"""
    keep: int | float | None = None
    """candidates that the next stage reads, the best by this graph: a number (int), or a share of those that this stage read (float
    between 0 and 1, rounded up); None in the last stage alone"""

    def __post_init__(self) -> None:
        if not isinstance(self.graph, str):
            raise TypeError(f"Stage.graph is {type(self.graph).__name__}; expected the role or the name of a graph")
        if not NAME.fullmatch(self.graph):
            raise InputError(
                f"Stage.graph is {self.graph!r:.100}; expected the role or the name of a graph, such as full or first-look"
            )
        if self.keep is None:
            return
        if not isinstance(self.keep, int | float) or isinstance(self.keep, bool):
            raise TypeError(f"Stage.keep is {type(self.keep).__name__}; expected an int, a float or None")
        if isinstance(self.keep, float) and not 0 < self.keep < 1:
            raise InputError(f"Stage.keep is {self.keep}; expected a share between 0 and 1, or a whole number as an int")
        if isinstance(self.keep, int) and not 1 <= self.keep <= LARGEST_KEEP:
            raise InputError(f"Stage.keep is {self.keep}; expected a number of candidates from 1, or a share between 0.0 and 1.0")

    def __str__(self) -> str:
        return self.graph if self.keep is None else f"{self.graph}:{self.keep}"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a pool is worked through: its stages, first to last, each with a graph of its own.

        Plan([Stage("first-look", keep=15), Stage("full")])

    Every candidate is read in the first stage, and the best that a stage keeps in the next. What a later stage read ranks above
    what it did not, and within a stage the graph's logits decide. As text, which `Plan.parse` reads: first-look:15,full.
    Raises InputError for stages that do not make a plan and TypeError for anything else.
    """

    stages: tuple[Stage, ...]

    def __init__(self, stages: Iterable[Stage]) -> None:
        given = (stages,) if isinstance(stages, Stage) else tuple(stages)
        for stage in given:
            if not isinstance(stage, Stage):
                raise TypeError(f"a plan holds {type(stage).__name__}; expected only Stage objects")
        if not 1 <= len(given) <= MOST_STAGES:
            raise InputError(f"a plan of {len(given)} stages; expected 1 to {MOST_STAGES}")
        names = [stage.graph for stage in given]
        if len(set(names)) < len(names):
            raise InputError(f"a plan reads with {', '.join(names)}; expected each graph once")
        for stage in given[:-1]:
            if stage.keep is None:
                raise InputError(f"a plan's stage {stage.graph} does not say how many it keeps; expected that of all but the last")
        if given[-1].keep is not None:
            raise InputError(f"a plan's last stage keeps {given[-1].keep}; expected None, as no stage follows")
        object.__setattr__(self, "stages", given)

    @classmethod
    def parse(cls, text: str) -> Self:
        """A plan from a built-in name, or from stages GRAPH:KEEP,...,GRAPH, KEEP being a number or a share such as 0.3.

        Raises InputError for anything else.
        """
        if text in BUILT_IN:
            return cls(BUILT_IN[text].stages)
        try:
            return cls([_stage(part) for part in text.split(",")])
        except InputError as error:
            raise InputError(f"the plan {text!r:.100} cannot be used: {error}; {EXPECTED}") from error

    def __str__(self) -> str:
        return ",".join(map(str, self.stages))


def as_plan(value: object, name: str) -> Plan:
    """A plan that a caller gave, as an object or as text. Raises TypeError and InputError that say `name`."""
    if isinstance(value, Plan):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} is {type(value).__name__}; expected a str or a Plan")
    return Plan.parse(value)


def _stage(text: str) -> Stage:
    graph, colon, keep = text.partition(":")
    if not colon:
        return Stage(graph.strip())
    try:
        number = int(keep) if re.fullmatch(r"\s*[0-9]{1,12}\s*", keep) else float(keep)
    except ValueError as error:
        raise InputError(
            f"its stage {text!r:.60} keeps {keep!r:.40}; expected a number of candidates, or a share such as 0.3"
        ) from error
    return Stage(graph.strip(), number)


BUILT_IN = {
    "fast": Plan([Stage(FIRST_LOOK, keep=FAST_KEEP), Stage(FULL)]),
    "balanced": Plan([Stage(FIRST_LOOK, keep=BALANCED_KEEP), Stage(FULL)]),
    "full": Plan([Stage(FULL)]),
}
"""The plans by name. `full` is the plain rerank."""
