"""The plans of an artifact: the one place that decides which of its graphs score a call. Pure arithmetic."""

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
MIN_SAVED_SHARE = 0.2
"""A stage runs only if it saves more than this share of the operations. Work that is not counted, such as normalization, does not
shrink with them: the embedded first look has 0.23 of the operations and takes 0.36 of the time."""


class Step(NamedTuple):
    """A stage of one call."""

    graph: str
    """the graph's name"""
    rule: Relevance
    """how its logits become the relevance that candidates are ranked on"""
    keep: int | None = None
    """rows that the next step reads; ignored in the last step"""


@dataclass(frozen=True, slots=True)
class ResolvedPlan:
    """A plan whose stages are graphs of an artifact."""

    plan: Plan
    graphs: tuple[Graph, ...]
    """of each stage"""
    min_keep: int = 1
    """the minimum of candidates that every stage keeps"""
    keeps_all: bool = False
    """whether stages keep all candidates and only decide in which order the next stage scores them, until the deadline"""

    def steps(self, rows: int) -> tuple[Step, ...]:
        """The steps of a call of `rows` distinct pairs.

        With a stage, its graph scores all `rows` and the next graph only those that the stage keeps; without it, the next graph
        scores all `rows`. A stage that saves no more than MIN_SAVED_SHARE of the operations is skipped. With `keeps_all`, none is.
        A stage with a split graph counts as if all documents were prepared, whether or not they are: which graphs score a call
        never depends on what is known of its documents.
        """
        if self.keeps_all:
            return tuple(Step(graph.name, graph.relevance, rows) for graph in self.graphs)
        steps = []
        for stage, graph, after in zip(self.plan.stages, self.graphs, self.graphs[1:], strict=False):
            assert stage.keep is not None
            stage_keep = share_of(rows, stage.keep) if isinstance(stage.keep, float) else stage.keep
            keep = min(rows, max(stage_keep, self.min_keep))
            if _fewest_operations(graph) * rows + after.operations * keep < (1 - MIN_SAVED_SHARE) * after.operations * rows:
                steps.append(Step(graph.name, graph.relevance, keep))
                rows = keep
        return (*steps, Step(self.graphs[-1].name, self.graphs[-1].relevance))

    def __str__(self) -> str:
        """The plan as text with the names of its graphs: equal for all plans that keep the same candidates."""
        stages = zip(self.graphs, self.plan.stages, strict=True)
        return ",".join(
            graph.name if stage.keep is None else f"{graph.name}:{self._keep_text(stage.keep)}" for graph, stage in stages
        )

    def _keep_text(self, keep: float) -> str:
        if isinstance(keep, int):
            return str(max(keep, self.min_keep))
        return str(keep) if self.min_keep == 1 else f"{keep} and at least {self.min_keep}"


class Plans:
    """The choice between an artifact's plans, for one Reranker."""

    def __init__(self, graphs: Sequence[Graph], manifest_plan: ResolvedPlan | None, default: Plan | str) -> None:
        """`manifest_plan`: the artifact's own plan, if it has one. `default`: the plan of the Settings, "auto" or any other."""
        self.full = resolve_plan(BUILT_IN["full"], graphs)
        """the full graph alone"""
        self._graphs = graphs
        self._manifest_plan = manifest_plan
        self._default = default

    def choose(self, plan: Plan | str | None = None, *, top_k: int | None = None, is_timed: bool = False) -> ResolvedPlan:
        """The plan of a call, from its `plan` (None: that of the Settings) and its `top_k` (None: all documents).

        With "auto", a call with a deadline (`is_timed`) scores all documents in the order that the artifact's own plan finds. A
        call with a `top_k` follows that plan, and the full graph scores every document that it returns. Any other call uses the
        full graph alone. Raises TypeError for another type, and InputError for a plan that the artifact has no graphs for.
        """
        plan = self._default if plan is None else plan
        if plan != "auto":
            return resolve_plan(as_plan(plan, "plan"), self._graphs)
        if self._manifest_plan is None or (top_k is None and not is_timed):
            return self.full
        return replace(self._manifest_plan, keeps_all=True) if is_timed else replace(self._manifest_plan, min_keep=top_k or 1)

    def default_graphs(self) -> tuple[Graph, ...]:
        """The graphs of calls that name no plan. Raises like `choose`."""
        return self.choose(top_k=1).graphs


def _fewest_operations(graph: Graph) -> int:
    """Per token of a pair; of a split graph, for documents whose states are known."""
    return graph.operations if graph.split is None else graph.split.prepared_operations


def share_of(rows: int, share: float) -> int:
    """That share of the rows, rounded up; 0.07 of 100 is 7, although their product in floating point is a little more."""
    return math.ceil(share * rows - ROUNDING)


def resolve_plan(plan: Plan, graphs: Sequence[Graph]) -> ResolvedPlan:
    """The plan with its graphs: of each stage, the first graph of the role that it names, or else the graph of that name.

    Raises InputError if there is none, if two stages mean the same graph, or if a stage's graph costs as much as the next.
    """
    plan_graphs = tuple(_graph(stage.graph, plan, graphs) for stage in plan.stages)
    names = [graph.name for graph in plan_graphs]
    if len(set(names)) < len(names):
        raise InputError(f"the plan {plan} reads with the graphs {', '.join(names)}; expected each graph once")
    for graph, after in pairwise(plan_graphs):
        if graph.operations >= after.operations:
            raise InputError(
                f"the plan {plan} reads with {graph.name} before {after.name}, which costs no more ({graph.operations} and "
                f"{after.operations} operations a token); expected cheaper graphs first"
            )
    return ResolvedPlan(plan, plan_graphs)


def _graph(name: str, plan: Plan, graphs: Sequence[Graph]) -> Graph:
    for graph in (*(graph for graph in graphs if graph.role == name), *(graph for graph in graphs if graph.name == name)):
        return graph
    raise InputError(
        f"the plan {plan} needs a graph {name}, but this artifact has {' and '.join(graph.name for graph in graphs)}; use the plan "
        "full, or an artifact that `resift export --first-look` made"
    )
