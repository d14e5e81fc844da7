"""Steps: a plan with an artifact's graphs, and what it comes to for one pool. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.artifact.manifest import Graph, Relevance
    from resift.plans import Plan

ROUNDING = 1e-9
LEAST_SAVED = 0.2
"""Share of the operations of which a stage must save more to run. What is not counted, such as normalization, does not shrink with
them: the embedded first look has 0.23 of the operations and takes 0.36 of the time."""


class Terms(NamedTuple):
    """How a call is worked through, and until when."""

    plan: ResolvedPlan
    deadline: float | None = None
    """by time.monotonic; None: until it is done"""


class Step(NamedTuple):
    """A stage of one call."""

    graph: str
    """the graph's name"""
    rule: Relevance
    """how its logits become what candidates are ranked on"""
    keep: int | None = None
    """rows that the next step reads; not looked at in the last step"""


@dataclass(frozen=True, slots=True)
class ResolvedPlan:
    """A plan whose stages are graphs of an artifact."""

    plan: Plan
    graphs: tuple[Graph, ...]
    """of each stage"""
    least: int = 1
    """candidates that every stage keeps at least"""
    keeps_all: bool = False
    """whether stages only say in which order the next one reads, for as long as there is time"""

    def steps(self, rows: int) -> tuple[Step, ...]:
        """The steps of a call of `rows` distinct pairs.

        A stage is left out where it would not pay: where reading `rows` by its graph and those that it keeps by the next saves
        LEAST_SAVED of the operations that reading all of them by the next takes, or less. With `keeps_all`, no stage is left out.
        """
        if self.keeps_all:
            return tuple(Step(graph.name, graph.relevance, rows) for graph in self.graphs)
        found = []
        for stage, graph, after in zip(self.plan.stages, self.graphs, self.graphs[1:], strict=False):
            assert stage.keep is not None
            asked = share_of(rows, stage.keep) if isinstance(stage.keep, float) else stage.keep
            keep = min(rows, max(asked, self.least))
            if graph.operations * rows + after.operations * keep < (1 - LEAST_SAVED) * after.operations * rows:
                found.append(Step(graph.name, graph.relevance, keep))
                rows = keep
        return (*found, Step(self.graphs[-1].name, self.graphs[-1].relevance))

    def __str__(self) -> str:
        """The plan as text with the names of its graphs: the same for all ways to say what keeps the same candidates."""
        stages = zip(self.graphs, self.plan.stages, strict=True)
        return ",".join(graph.name if stage.keep is None else f"{graph.name}:{self._kept(stage.keep)}" for graph, stage in stages)

    def _kept(self, keep: float) -> str:
        if isinstance(keep, int):
            return str(max(keep, self.least))
        return str(keep) if self.least == 1 else f"{keep} and at least {self.least}"


def share_of(rows: int, share: float) -> int:
    """That share of the rows, rounded up; 0.07 of 100 is 7, although their product in floating point is a little more."""
    return math.ceil(share * rows - ROUNDING)


def resolve_plan(plan: Plan, graphs: Sequence[Graph]) -> ResolvedPlan:
    """The plan with the graphs that its stages name or whose role they give, the first of that role.

    Raises InputError if there is none, if two stages mean the same graph, or if a stage's graph costs as much as the next.
    """
    found = tuple(_graph(stage.graph, plan, graphs) for stage in plan.stages)
    names = [graph.name for graph in found]
    if len(set(names)) < len(names):
        raise InputError(f"the plan {plan} reads with the graphs {', '.join(names)}; expected each graph once")
    for graph, after in pairwise(found):
        if graph.operations >= after.operations:
            raise InputError(
                f"the plan {plan} reads with {graph.name} before {after.name}, which costs no more ({graph.operations} and "
                f"{after.operations} operations a token); expected cheaper graphs first"
            )
    return ResolvedPlan(plan, found)


def _graph(name: str, plan: Plan, graphs: Sequence[Graph]) -> Graph:
    for graph in (*(graph for graph in graphs if graph.role == name), *(graph for graph in graphs if graph.name == name)):
        return graph
    raise InputError(
        f"the plan {plan} needs a graph {name}, but this artifact has {' and '.join(graph.name for graph in graphs)}; use the plan "
        "full, or an artifact that `resift export --first-look` made"
    )
