"""The plans of an artifact: which of its graphs read a call. The one place that decides it; pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from resift.errors import InputError
from resift.plans import BUILT_IN, as_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.artifact.manifest import Graph, Relevance
    from resift.plans import Plan

ROUNDING = 1e-9
LEAST_SAVED = 0.2
"""Share of the operations of which a stage must save more to run. What is not counted, such as normalization, does not shrink with
them: the embedded first look has 0.23 of the operations and takes 0.36 of the time."""


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


class Plans:
    """The choice between an artifact's plans, for one Reranker."""

    def __init__(self, graphs: Sequence[Graph], own: ResolvedPlan | None, asked: Plan | str) -> None:
        """`own`: the artifact's own plan, if it has one; `asked`: that of the Settings, "auto" or one for every call."""
        self.full = resolve_plan(BUILT_IN["full"], graphs)
        """the full graph alone"""
        self._graphs = graphs
        self._own = own
        self._asked = asked

    def choose(self, plan: Plan | str | None = None, *, top_k: int | None = None, is_timed: bool = False) -> ResolvedPlan:
        """What a call follows that asks for `plan` (None: that of the Settings) and the best `top_k` (None: all).

        With "auto", a call with a deadline (`is_timed`) reads in the order that the artifact's own plan finds, and one that asks
        for the best alone follows that plan and gets them all from the full graph; others read with the full graph alone.
        Raises TypeError for another type, and InputError for a plan that the artifact has no graphs for.
        """
        asked = self._asked if plan is None else plan
        if asked != "auto":
            return resolve_plan(as_plan(asked, "plan"), self._graphs)
        if self._own is None or (top_k is None and not is_timed):
            return self.full
        return replace(self._own, keeps_all=True) if is_timed else replace(self._own, least=top_k or 1)

    def usual(self) -> tuple[Graph, ...]:
        """The graphs of calls that ask for no plan. Raises like `choose`."""
        return self.choose(top_k=1).graphs


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
