"""Plans: cascades of graphs that score a pool, as callers state them, whatever the artifact.

How many candidates a call of an artifact keeps: `artifact/resolved_plans.py`; which: `Call.survivors` in `scheduling/call.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Self

from resift.counts import as_int
from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

FULL, FIRST_LOOK = "full", "first-look"
"""The roles of graphs."""
FAST_KEEP = 10
"""Candidates that the full model scores with `fast`."""
BALANCED_KEEP = 20
"""Candidates that the full model scores with `balanced`: with the embedded first look, the smallest number that stays within 1 %
of nDCG@10 (see its model card)."""
MAX_STAGES = 8
LARGEST_KEEP = 1 << 31
NAME = re.compile("[a-z0-9][a-z0-9-]{0,39}")
"""The name of a role or of a graph."""
EXPECTED_FORMS = "expected 'auto', 'full', 'fast', 'balanced', or stages such as 'first-look:15,full'"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a cascade: a graph, and how many candidates it passes on.

    Raises InputError for a value out of range and TypeError for one of the wrong type.
    """

    graph: str
    """the name of one of the artifact's graphs, or a role (full or first-look), which stands for its first graph of that role"""
    keep: int | float | None = None
    """how many candidates, the best by this graph, the next stage scores: a number (int), or a share of those that this stage
    scored (float between 0 and 1, rounded up); None in the last stage alone"""

    def __post_init__(self) -> None:
        if not isinstance(self.graph, str):
            raise TypeError(f"Stage.graph is {type(self.graph).__name__}; expected the role or the name of a graph")
        if not NAME.fullmatch(self.graph):
            raise InputError(
                f"a stage's graph is {self.graph!r:.100}; expected the role or the name of a graph, such as full or first-look"
            )
        if self.keep is None:
            return
        if not isinstance(self.keep, Real) or isinstance(self.keep, bool):
            raise TypeError(f"Stage.keep is {type(self.keep).__name__}; expected an int, a float or None")
        count = as_int(self.keep)
        object.__setattr__(self, "keep", float(self.keep) if count is None else count)
        if isinstance(self.keep, float) and not 0 < self.keep < 1:
            raise InputError(f"a stage keeps {self.keep}; expected a share between 0 and 1, or a whole number as an int")
        if isinstance(self.keep, int) and not 1 <= self.keep <= LARGEST_KEEP:
            raise InputError(f"a stage keeps {self.keep}; expected a number of candidates from 1, or a share between 0.0 and 1.0")

    def __str__(self) -> str:
        return self.graph if self.keep is None else f"{self.graph}:{self.keep}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A cascade: the stages of a pool, first to last, each with a different graph.

    >>> str(Plan([Stage("first-look", keep=15), Stage("full")]))
    'first-look:15,full'

    The first stage scores every candidate, and each later stage the best that the stage before it keeps. Candidates that reach a
    later stage rank above those that do not, and within a stage the graph's logits decide. As text, which `Plan.parse` reads:
    first-look:15,full. Raises InputError for stages that do not make a plan and TypeError for anything else.
    """

    stages: tuple[Stage, ...]

    def __init__(self, stages: Iterable[Stage]) -> None:
        stages = (stages,) if isinstance(stages, Stage) else tuple(stages)
        for stage in stages:
            if not isinstance(stage, Stage):
                raise TypeError(f"a plan holds {type(stage).__name__}; expected only Stage objects")
        if not 1 <= len(stages) <= MAX_STAGES:
            raise InputError(f"a plan of {len(stages)} stages; expected 1 to {MAX_STAGES}")
        names = [stage.graph for stage in stages]
        if len(set(names)) < len(names):
            raise InputError(f"a plan reads with {', '.join(names)}; expected each graph once")
        for stage in stages[:-1]:
            if stage.keep is None:
                raise InputError(f"a plan's stage {stage.graph} does not say how many it keeps; expected that of all but the last")
        if stages[-1].keep is not None:
            raise InputError(f"a plan's last stage keeps {stages[-1].keep}; expected nothing there, as no stage follows")
        object.__setattr__(self, "stages", stages)

    @classmethod
    def parse(cls, text: str) -> Self:
        """A plan from a built-in name, or from stages GRAPH:KEEP,...,GRAPH, KEEP being a number or a share such as 0.3.

        >>> Plan.parse("first-look:0.3,full").stages
        (Stage(graph='first-look', keep=0.3), Stage(graph='full', keep=None))
        >>> Plan.parse("fast") == Plan.parse("first-look:10,full")
        True

        Raises InputError for anything else.
        """
        if text in BUILT_IN:
            return cls(BUILT_IN[text].stages)
        try:
            return cls([_stage(part) for part in text.split(",")])
        except InputError as error:
            raise InputError(f"the plan {text!r:.100} cannot be used: {error}; {EXPECTED_FORMS}") from error

    def __str__(self) -> str:
        return ",".join(map(str, self.stages))


def as_plan(value: object, name: str) -> Plan:
    """A plan from an object or from text. Raises TypeError for another type, naming the argument, and InputError."""
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
"""The built-in plans by name. `full` scores every candidate with the full graph alone."""
