"""Plans as callers say them, and what they come to for an artifact's graphs and a pool's size."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resift import InputError, Plan, Stage
from resift.artifact.resolved_plans import Step, resolve_plan
from resift.plans import BALANCED_KEEP, BUILT_IN, FAST_KEEP, as_plan


def graph(name, role="first-look", operations=100):
    return SimpleNamespace(name=name, role=role, operations=operations, relevance="logit", split=None)


FULL = graph("full", "full")
SMALL = graph("first-look", operations=25)
TINY = graph("tiny", operations=5)


def steps(text, rows, *graphs, min_keep=1):
    """(graph, keep) of each step."""
    plan = resolve_plan(Plan.parse(text), graphs or (FULL, SMALL, TINY))
    return [(step.graph, step.keep) for step in type(plan)(plan.plan, plan.graphs, min_keep).steps(rows)]


def test_a_plan_is_a_value():
    plan = Plan([Stage("first-look", keep=15), Stage("full")])
    assert plan == Plan.parse("first-look:15,full") == pickle.loads(pickle.dumps(plan))
    assert plan.stages == (Stage("first-look", 15), Stage("full"))
    assert len({plan, Plan.parse(" first-look: 15 , full ")}) == 1
    assert str(plan) == "first-look:15,full"
    with pytest.raises(FrozenInstanceError):
        plan.stages = ()
    with pytest.raises(FrozenInstanceError):
        plan.stages[0].keep = 1


def test_the_built_in_names_are_plans():
    assert {name: str(plan) for name, plan in BUILT_IN.items()} == {
        "fast": f"first-look:{FAST_KEEP},full",
        "balanced": f"first-look:{BALANCED_KEEP},full",
        "full": "full",
    }
    assert all(Plan.parse(name) == plan for name, plan in BUILT_IN.items())


KEEPS = st.integers(1, 10**6) | st.floats(0, 1, exclude_min=True, exclude_max=True)


@given(
    st.lists(st.tuples(st.from_regex("[a-z0-9][a-z0-9-]{0,39}", fullmatch=True), KEEPS), max_size=7, unique_by=lambda pair: pair[0])
)
def test_any_plan_survives_as_text(stages):
    plan = Plan([*(Stage(name, keep) for name, keep in stages), Stage("-last".lstrip("-") + "0" * 36)])
    assert Plan.parse(str(plan)) == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a stage's graph is ''"),
        (",", "a stage's graph is ''"),
        ("Fast", "a stage's graph is 'Fast'"),
        ("first-look", None),
        ("full,full", "reads with full, full; expected each graph once"),
        ("first-look,full", "stage first-look does not say how many it keeps"),
        ("first-look:10", "last stage keeps 10; expected nothing there"),
        ("first-look:0,full", "a stage keeps 0; expected a number of candidates from 1"),
        ("first-look:-3,full", "a stage keeps -3.0; expected a share between 0 and 1"),
        ("first-look:1.0,full", "a stage keeps 1.0; expected a share between 0 and 1"),
        ("first-look:nan,full", "a stage keeps nan"),
        ("first-look:1e999,full", "a stage keeps inf"),
        ("first-look:ten,full", "stage 'first-look:ten' keeps 'ten'; expected a number of candidates, or a share such as 0.3"),
        ("first-look:,full", "keeps ''"),
        ("first-look:1:2,full", "keeps '1:2'"),
        ("first-look:999999999999,full", "a stage keeps 999999999999"),
        (",".join(f"g{number}:9" for number in range(8)) + ",full", "a plan of 9 stages; expected 1 to 8"),
        ("first-look:10;full", "keeps '10;full'"),
        ("a" * 41, "a stage's graph is 'aaa"),
        ("full\n", None),
        ("füll", "a stage's graph is 'füll'"),
    ],
)
def test_text_that_is_no_plan_is_refused_in_one_line(text, said):
    if said is None:
        assert len(Plan.parse(text).stages) == 1
        return
    with pytest.raises(InputError) as caught:
        Plan.parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "expected 'auto', 'full', 'fast', 'balanced', or stages such as" in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Stage(None),
        lambda: Stage("full", keep="10"),
        lambda: Stage("full", keep=True),
        lambda: Plan(["full"]),
        lambda: Plan([Stage("first-look", 3), ("full", None)]),
        lambda: as_plan(3, "plan"),
        lambda: as_plan(None, "plan"),
        lambda: as_plan([Stage("full")], "plan"),
    ],
)
def test_another_type_is_a_type_error(make):
    with pytest.raises(TypeError, match="expected"):
        make()


@pytest.mark.parametrize(("stages", "said"), [([], "a plan of 0 stages"), (Stage("full", 3), "last stage keeps 3")])
def test_stages_that_make_no_plan_are_refused(stages, said):
    with pytest.raises(InputError, match=said):
        Plan(stages)


def test_stages_mean_roles_or_names():
    other = graph("other")
    assert resolve_plan(BUILT_IN["fast"], [FULL, TINY, other]).graphs == (TINY, FULL)
    assert resolve_plan(Plan.parse("tiny:9,first-look:3,full"), [FULL, SMALL, TINY]).graphs == (TINY, SMALL, FULL)
    assert resolve_plan(Plan.parse("full"), [graph("whole", "full")]).graphs[0].name == "whole"
    assert str(resolve_plan(BUILT_IN["fast"], [graph("whole", "full"), TINY])) == f"tiny:{FAST_KEEP},whole"


def test_a_role_is_not_taken_for_a_name():
    impostor = graph("full", "first-look", 5)
    assert resolve_plan(BUILT_IN["full"], [impostor, graph("whole", "full")]).graphs[0].name == "whole"


@pytest.mark.parametrize(
    ("text", "graphs", "said"),
    [
        ("fast", [FULL], "the plan first-look:10,full needs a graph first-look, but this artifact has full; use the plan full"),
        ("fats", [FULL, SMALL], "needs a graph fats, but this artifact has full and first-look"),
        (
            "first-look:9,small:3,full",
            [FULL, graph("small", operations=9)],
            "with the graphs small, small, full; expected each graph once",
        ),
        ("full:9,first-look", [FULL, SMALL], "reads with full before first-look, which costs no more \\(100 and 25"),
        ("fast", [FULL, graph("even")], "costs no more \\(100 and 100 operations a token\\); expected cheaper graphs first"),
    ],
)
def test_a_plan_that_an_artifact_has_no_graphs_for_is_refused(text, graphs, said):
    with pytest.raises(InputError, match=said):
        resolve_plan(Plan.parse(text), graphs)


def test_full_is_one_step_whatever_the_pool():
    for rows in (0, 1, 10_000):
        assert resolve_plan(BUILT_IN["full"], [SMALL, FULL]).steps(rows) == (Step("full", "logit"),)


def test_a_number_or_a_share_is_kept():
    assert steps("first-look:10,full", 50) == [("first-look", 10), ("full", None)]
    assert steps("first-look:0.3,full", 50) == [("first-look", 15), ("full", None)]
    assert steps("first-look:0.3,full", 51) == [("first-look", 16), ("full", None)]
    assert steps("tiny:0.5,first-look:0.5,full", 50) == [("tiny", 25), ("first-look", 13), ("full", None)]


def test_a_first_look_that_would_not_pay_is_left_out():
    # 25 x rows + 100 x 10 against 0.8 x 100 x rows: equal at 18.2 rows
    assert steps("first-look:10,full", 18) == [("full", None)]
    assert steps("first-look:10,full", 19) == [("first-look", 10), ("full", None)]
    # and where it saves no more than that, it is not enough
    assert steps("first-look:11,full", 20) == [("full", None)]
    assert steps("first-look:11,full", 21) == [("first-look", 11), ("full", None)]
    assert steps("first-look:10,full", 0) == [("full", None)]
    assert steps("first-look:0.1,full", 1) == [("full", None)]


def test_each_stage_of_several_has_to_pay():
    assert steps("tiny:40,first-look:10,full", 44) == [("first-look", 10), ("full", None)]
    assert steps("tiny:12,first-look:10,full", 100) == [("tiny", 12), ("full", None)]


def test_a_plan_nobody_asked_for_keeps_as_many_as_are_asked_for():
    assert steps("first-look:10,full", 100, min_keep=30) == [("first-look", 30), ("full", None)]
    assert steps("first-look:10,full", 100, min_keep=3) == [("first-look", 10), ("full", None)]
    assert steps("first-look:10,full", 100, min_keep=75) == [("full", None)]
    assert steps("tiny:20,first-look:10,full", 100, min_keep=30) == [("tiny", 30), ("full", None)]


@given(st.integers(0, 300), KEEPS, KEEPS, st.integers(1, 300))
def test_steps_narrow_down_and_cost_less_than_the_full_graph(rows, first, second, least):
    plan = Plan([Stage("tiny", first), Stage("first-look", second), Stage("full")])
    found = steps(str(plan), rows, min_keep=least)
    assert found[-1] == ("full", None)
    operations, left = 0, rows
    for name, keep in found:
        operations += {"tiny": 5, "first-look": 25, "full": 100}[name] * left
        if keep is not None:
            assert min(least, rows) <= keep < left
            left = keep
    assert operations < 80 * rows or found == [("full", None)]
