"""`tune` on a machine that is pretended: times and rankings are computed, so nothing here depends on a clock."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import pytrec_eval

from resift import InputError, Settings
from resift.evaluate.data.pool_judgements import PoolJudgements
from resift.evaluate.significance import standard_error
from resift.evaluate.tuning.choice import Goal, choosable, frontier, quantile, within_noise
from resift.evaluate.tuning.quality import first_of, top_agreement
from resift.evaluate.tuning.timing import Bench, Trial, fastest, time_trials
from resift.evaluate.tuning.tune import REPEATS, TIMED_POOLS, check, tune, tune_on
from resift.pools.reading import CandidatePool


def pool(number, size=40, *, labels=None):
    """Candidates named by their place, of which the model ranks the last best."""
    fields = [{"docid": f"d{place}"} for place in range(size)]
    if labels is not None:
        fields = [{**each, "label": label} for each, label in zip(fields, labels, strict=True)]
    return CandidatePool(f"query {number}", [f"{place}" for place in range(size)], f"q{number}", fields)


def labelled_pools(count=30, size=40, relevant=25):
    """Pools whose relevant document is at place `relevant`: read only with more candidates than that."""
    return [pool(number, size, labels=[int(place == relevant) for place in range(size)]) for number in range(count)]


class Machine:
    """In place of a Bench: milliseconds are candidates x cost, and the last of the most relevant candidates ranks best."""

    model = "pretended"
    token_budget = 256
    follows_plan = reads_states = False

    def __init__(self, *, threads=(1, 2), precisions=("int8",), budgets=([128, 64], [512, 1024]), cost=None, is_perfect=True):
        self.threads, self.precisions, self._budgets = list(threads), precisions, budgets
        self.cost = cost or (lambda settings, calls: 1.0 / settings.threads)
        self.is_perfect = is_perfect
        self.calls, self.stages, self.closed = [], [], 0

    def settings(self, precision, threads, token_budget):
        return Settings(provider="cpu", precision=precision, threads=threads, token_budget=token_budget)

    def token_budgets(self):
        return self._budgets

    def orders(self, settings, pools):
        for each in pools:
            labels = [fields.get("label") or 0 for fields in each.fields] if self.is_perfect else [0] * len(each.documents)
            yield sorted(range(len(labels)), key=lambda place: (-labels[place], -place))

    def milliseconds(self, settings, each):
        self.calls.append((settings, len(each.documents), each.qid))
        return len(each.documents) * self.cost(settings, len(self.calls))

    def report(self, stage, done, total):
        self.stages.append((stage, done, total))

    def close(self):
        self.closed += 1


def chosen(machine, pools, **more):
    point = tune_on(machine, pools, **more).chosen
    return point and (point.candidates, point.settings.precision, point.settings.threads)


# Which point


def test_without_a_budget_the_best_quality_is_chosen_with_the_fewest_candidates_that_reach_it():
    assert chosen(Machine(), labelled_pools()) == (30, "int8", 2)


def test_a_budget_leaves_only_the_points_that_hold_it_with_a_margin():
    pools = [pool(number, 40, labels=[int(place in (8, 18, 28)) for place in range(40)]) for number in range(30)]
    assert chosen(Machine(), pools) == (30, "int8", 2)
    assert chosen(Machine(), pools, goal=Goal(budget_ms=16.5)) == (30, "int8", 2)
    assert chosen(Machine(), pools, goal=Goal(budget_ms=16.4)) == (20, "int8", 2)
    assert chosen(Machine(), pools, goal=Goal(budget_ms=11)) == (20, "int8", 2)


def test_fewer_threads_hold_fewer_candidates():
    pools = [pool(number, 40, labels=[int(place in (8, 18, 28)) for place in range(40)]) for number in range(30)]
    goal = Goal(budget_ms=16.5)
    assert chosen(Machine(threads=[1]), pools, goal=goal) == (10, "int8", 1)
    assert chosen(Machine(threads=[1, 2]), pools, goal=goal) == (30, "int8", 2)


def test_if_nothing_fits_nothing_is_chosen_and_the_fastest_is_the_nearest():
    found = tune_on(Machine(), labelled_pools(), goal=Goal(budget_ms=2))
    assert found.chosen is None
    assert (found.nearest.candidates, found.nearest.latency_ms.p95) == (5, 2.5)
    assert not any(point.fits for point in found.points)


def test_a_slow_call_in_twenty_is_allowed_and_two_are_not():
    def every(number):
        return Machine(threads=[1], cost=lambda settings, calls: 9.0 if calls % number == 0 else 1.0)

    pools = labelled_pools(20, size=5, relevant=2)
    goal = Goal(budget_ms=10)
    assert chosen(every(20), pools, goal=goal) == (5, "int8", 1)
    assert chosen(every(10), pools, goal=goal) is None


def test_a_point_must_hold_its_budget_in_both_halves_of_the_repeats():
    goal = Goal(budget_ms=10)
    fast, slow = np.full((2, 20), 9.0), np.full((2, 20), 9.2)
    assert goal.fits(np.vstack([fast, fast]))
    assert not goal.fits(np.vstack([fast, slow]))
    assert not goal.fits(np.vstack([slow, fast]))


def test_a_point_that_fails_its_second_run_gives_way_to_the_next_and_is_marked():
    """The model loaded anew is slow from 30 candidates on."""
    machine = Machine(threads=[1])
    machine.cost = lambda settings, calls: 2.0 if machine.closed and machine.calls[-1][1] >= 30 else 1.0
    pools = [pool(number, 40, labels=[int(place in (8, 18, 28)) for place in range(40)]) for number in range(30)]
    found = tune_on(machine, pools, goal=Goal(budget_ms=50))
    assert found.chosen.candidates == 20
    assert {point.candidates: point.fits for point in found.points}[30] is False
    assert machine.closed == 2


def test_if_every_point_fails_its_second_run_nothing_is_chosen():
    machine = Machine(threads=[1])
    machine.cost = lambda settings, calls: 100.0 if machine.closed else 1.0
    found = tune_on(machine, labelled_pools(), goal=Goal(budget_ms=50))
    assert found.chosen is None
    assert found.nearest.candidates == 5


def test_of_two_precisions_equally_good_the_faster_is_chosen():
    def cost(settings, calls):
        return 1.0 if settings.precision == "int8" else 3.0

    found = tune_on(Machine(threads=[1], precisions=("int8", "float32"), cost=cost), labelled_pools())
    assert found.chosen.settings.precision == "int8"
    assert {(point.settings.precision, point.candidates) for point in found.points} == {
        (precision, size) for precision in ("int8", "float32") for size in (5, 10, 20, 30, 40)
    }
    assert not any(point.is_on_frontier for point in found.points if point.settings.precision == "float32")


# Quality


def test_without_labels_quality_is_the_share_of_the_full_rankings_best_that_survives():
    found = tune_on(Machine(), [pool(number, 40) for number in range(5)])
    assert (found.measure, found.given, found.judged) == ("agreement@10", None, 5)
    # The full ranking is 39, 38, ...: its best ten are among the first 40 only.
    assert [(point.candidates, point.quality) for point in found.points] == [(5, 0), (10, 0), (20, 0), (30, 0), (40, 1)]
    assert found.chosen.candidates == 40


def test_labels_that_are_all_zero_are_no_labels():
    found = tune_on(Machine(), [pool(number, 12, labels=[0] * 12) for number in range(5)])
    assert found.measure == "agreement@10"


def test_quality_is_of_the_pools_with_a_relevant_document_and_all_pools_are_timed():
    pools = [*labelled_pools(6), *(pool(number, 40) for number in range(6, 10))]
    found = tune_on(Machine(), pools)
    assert (found.measure, found.pools, found.judged, found.timed) == ("nDCG@10", 10, 6, 10)


def test_ndcg_is_trec_evals_for_a_part_of_the_pool_against_all_judgements():
    numbers = random.Random(5)
    qrels, runs, found = {}, {}, []
    for number in range(40):
        each = pool(number, numbers.randint(2, 40))
        names = [*(fields["docid"] for fields in each.fields), "outside-1", "outside-2"]
        qrels[each.qid] = {name: numbers.choice([-1, 0, 0, 1, 2, 3]) for name in names} | {"outside-3": 2}
        order = numbers.sample(range(len(each.documents)), len(each.documents))
        size = numbers.randint(1, 40)
        best = first_of(order, size)
        runs[each.qid] = {f"d{index}": float(-rank) for rank, index in enumerate(best)}
        found.append(PoolJudgements.of(each, qrels, "").ndcg(best))
    measured = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(runs)
    assert found == pytest.approx([measured[qid]["ndcg_cut_10"] for qid in runs], abs=1e-9)
    assert len(set(found)) > 20


def test_pools_without_a_relevant_document_are_not_judged():
    judged, *others = labelled_pools(3)
    qrels = {judged.qid: {"d2": 2, "elsewhere": 1}, others[0].qid: {"d2": 0}}
    found = tune_on(Machine(), [judged, *others], qrels=qrels)
    assert (found.measure, found.judged) == ("nDCG@10", 1)


def test_a_label_that_is_no_integer_is_an_error_with_its_place():
    with pytest.raises(InputError, match=r"pool 2 \(qid 'q3'\): candidates\[1\]: 'label' is a string, '1'; expected an integer"):
        tune_on(Machine(), [pool(1, 2), pool(3, 2, labels=[0, "1"])])


@pytest.mark.parametrize(
    ("order", "full", "share"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3], 1.0),
        ([3, 2, 1, 0], [0, 1, 2, 3], 0.0),
        ([1, 3, 0, 2], [0, 1, 2, 3], 0.5),
        ([0], [0, 1, 2, 3], 0.5),
        ([1], [0, 1], 0.0),
        ([0, 1, 2], [2, 0, 1], 0.0),
    ],
)
def test_agreement_looks_at_the_better_half_of_a_small_pool(order, full, share):
    assert top_agreement(order, full) == share


# Noise


def test_a_difference_within_one_standard_error_is_noise():
    flips = np.tile([0.2, -0.2], 20)
    better, same, worse = np.full(40, 0.6), 0.59 + flips, 0.5 + flips
    assert standard_error(better - same, 1) == pytest.approx(0.2 / np.sqrt(40), rel=0.1)
    quality = np.array([same, better, worse])
    assert within_noise(quality, [0, 1, 2], 1) == [0, 1]
    assert within_noise(quality, [0, 2], 1) == [0]
    assert within_noise(quality, [2], 1) == [2]


def test_of_points_within_noise_the_fastest_is_chosen():
    """Twenty candidates are better on half of the pools and worse on the other half, by nothing in the mean."""
    pools = [pool(number, 20, labels=[int(place == (9 if number % 2 else 19)) for place in range(20)]) for number in range(20)]
    found = tune_on(Machine(threads=[1], is_perfect=False), pools, candidates=[10, 20])
    assert [point.quality for point in found.points] == pytest.approx([0.5, 0.5])
    assert found.chosen.candidates == 10


def test_fewer_candidates_than_the_best_number_are_not_chosen_within_noise():
    """Ten candidates are better on half of twelve pools, and worse on the other half by less."""
    pools = [pool(number, 10, labels=[int(place == (9 if number % 2 else 4)) for place in range(10)]) for number in range(12)]
    found = tune_on(Machine(threads=[1], is_perfect=False), pools, candidates=[5, 10])
    five, ten = found.points
    assert within_noise(np.array([[1.0, 0.0] * 6, [1 / np.log2(7), 1.0] * 6]), [0, 1], 1) == [0, 1]
    assert (five.quality, ten.quality) == pytest.approx((0.5, 0.5 + 0.5 / np.log2(7)))
    assert found.chosen == ten
    assert ten.lead == (0, 0)
    assert five.lead[0] < 0 < ten.quality - five.quality < five.lead[1]


def test_of_the_best_number_of_candidates_the_fastest_within_noise_is_chosen():
    flips = np.tile([0.2, -0.2], 20)
    quality = np.array([0.59 + flips, 0.59 + flips, np.full(40, 0.6), 0.58 + flips])
    candidates = [5, 10, 10, 20]
    assert choosable(quality, [0, 1, 2, 3], candidates, 1) == [1, 2, 3]
    assert choosable(quality, [0, 1], candidates, 1) == [0, 1]
    assert choosable(quality, [3], candidates, 1) == [3]


def test_means_that_differ_by_rounding_are_equally_good():
    quality = np.array([[0.3, 0.2, 0.1], [0.1, 0.2, 0.3]])
    few, many = quality.mean(axis=1)
    assert few < many
    assert choosable(quality, [0, 1], [5, 10], 1) == [0, 1]


def test_points_that_others_beat_are_not_on_the_frontier():
    assert frontier([1, 2, 3, 3, 4], [0.5, 0.4, 0.6, 0.6, 0.6]) == [True, False, True, False, False]
    assert frontier([2, 2, 1], [0.5, 0.6, 0.5]) == [False, True, True]
    assert frontier([1], [0.0]) == [True]


def test_a_quantile_is_a_time_that_was_measured():
    assert quantile(np.arange(1, 21.0), 0.95) == 19
    assert quantile(np.array([1.0, 2.0, 3.0]), 0.95) == 3


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf")])
def test_a_budget_that_is_no_time_is_refused(budget):
    with pytest.raises(InputError, match=r"the budget is .* ms; expected a number above 0"):
        Goal(budget_ms=budget)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(InputError, match=r"share is .*; expected a number above 0 and at most 1"):
        Goal(share=share)


# What is timed


def test_each_point_is_timed_on_each_pool_in_turn_as_often_as_it_says():
    machine = Machine(threads=[1], budgets=([], []))
    found = tune_on(machine, labelled_pools(7))
    counts = {size: sum(1 for _, length, _ in machine.calls if length == size) for size in (5, 10, 20, 40)}
    assert counts == dict.fromkeys((5, 10, 20, 40), 7 * REPEATS)
    assert (found.timed, found.repeats) == (7, REPEATS)
    first = [(length, qid) for _, length, qid in machine.calls[:10]]
    assert first == [(size, qid) for qid in ("q0", "q1") for size in (5, 10, 20, 30, 40)]


def test_of_many_pools_some_are_timed_spread_over_all_and_all_are_judged():
    machine = Machine(threads=[1])
    found = tune_on(machine, labelled_pools(101))
    assert (found.pools, found.judged, found.timed) == (101, 101, TIMED_POOLS)
    timed_pools = {qid for _, _, qid in machine.calls}
    assert {"q0", "q100"} < timed_pools
    assert len(timed_pools) == TIMED_POOLS


def test_a_point_far_over_the_budget_is_timed_once():
    machine = Machine(threads=[1], budgets=([], []))
    found = tune_on(machine, labelled_pools(10), goal=Goal(budget_ms=12))
    assert {length: sum(1 for call in machine.calls if call[1] == length) for length in (20, 40)} == {20: 10, 40: 10}
    assert {point.candidates: point.share_within for point in found.points} == {5: 1.0, 10: 1.0, 20: 0.0, 30: 0.0, 40: 0.0}


def test_repeats_take_the_points_in_turn_from_either_end():
    machine = Machine()
    trials = [Trial(machine.settings("int8", threads, 256), 5) for threads in (1, 2)]
    rows = time_trials(machine, trials, labelled_pools(1), repeats=2)
    assert [settings.threads for settings, _, _ in machine.calls] == [1, 2, 2, 1]
    assert [row.tolist() for row in rows] == [[[5.0], [5.0]], [[2.5], [2.5]]]


# Threads and token budgets


def search(cost, **more):
    machine = Machine(cost=lambda settings, calls: cost(settings), **more)
    found = fastest(machine, "int8", labelled_pools(3))
    return found.threads, found.token_budget


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (lambda settings: 1 / settings.threads, (4, 256)),
        (lambda settings: 1 / min(settings.threads, 2), (2, 256)),
        (lambda settings: settings.threads, (1, 256)),
        (lambda settings: 1 - 0.02 * settings.threads, (1, 256)),
        (lambda settings: settings.token_budget, (1, 64)),
        (lambda settings: 1 / settings.token_budget, (1, 1024)),
        (lambda settings: abs(settings.token_budget - 500), (1, 512)),
        (lambda settings: 1 + settings.token_budget / 1e6, (1, 256)),
    ],
    ids=["all threads", "two threads", "one thread", "little gained", "small", "large", "between", "the same"],
)
def test_the_fastest_threads_and_token_budget_are_found_and_small_gains_are_not_taken(cost, expected):
    assert search(cost, threads=[1, 2, 4]) == expected


def test_what_one_precision_likes_is_not_forced_on_the_other():
    def cost(settings, calls):
        return settings.token_budget if settings.precision == "int8" else 3 * 256 * 256 / settings.token_budget

    found = tune_on(Machine(threads=[1], precisions=("int8", "float32"), cost=cost), labelled_pools())
    assert {(point.settings.precision, point.settings.token_budget) for point in found.points} == {("int8", 64), ("float32", 1024)}


def test_a_bench_tries_powers_of_two_up_to_the_threads_asked_for(artifact):
    for asked, tried in [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]:
        with Bench(artifact, Settings(threads=asked)) as bench:
            assert bench.threads == tried


def test_a_bench_tries_what_the_artifact_has_unless_it_is_asked_for(artifact):
    with Bench(artifact, Settings()) as bench:
        assert bench.precisions == ("int8", "float32")
        assert bench.token_budgets() == ([128, 64], [512, 1024])
        settings = bench.settings("float32", 2, 64)
        assert settings == Settings(provider="cpu", precision="float32", threads=2, token_budget=64)
    with Bench(artifact, Settings(precision="float32", token_budget=300, max_length=20)) as bench:
        assert (bench.precisions, bench.token_budget, bench.token_budgets()) == (("float32",), 300, ([], []))
        assert bench.settings("float32", 1, 300).max_length == 20


def test_a_bench_ranks_as_the_reranker_does_and_opens_two_models_at_most(artifact, reranker, monkeypatch):
    from resift.evaluate.tuning import timing

    opened, closed = [], []

    class Counted(timing.Reranker):  # type: ignore[name-defined]
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            opened.append(self)

        def close(self):
            closed.append(self)
            super().close()

    monkeypatch.setattr(timing, "Reranker", Counted)
    each = CandidatePool("how do tides work", ["the moon pulls the sea", "bread rises by yeast", "a tide is high or low"])
    with Bench(artifact, Settings(threads=1)) as bench:
        settings = bench.settings("int8", 1, 256)
        expected = [result.index for result in reranker.rerank(each.query, each.documents)]
        assert list(bench.orders(settings, [each])) == [expected]
        for token_budget in (64, 128, 256, 64):
            assert bench.milliseconds(replace(settings, token_budget=token_budget), each) > 0
            assert len(opened) - len(closed) <= 2
    assert len(opened) == len(closed)


# Bad input


@pytest.mark.parametrize("pools", [[], [pool(1, 1)], [pool(1, 0), pool(2, 1)]], ids=["none", "one", "small"])
def test_pools_without_two_candidates_leave_nothing_to_rank(pools):
    with pytest.raises(InputError, match=f"none of the {len(pools)} pools has two candidates or more"):
        tune_on(Machine(), pools)


def test_small_pools_are_left_out_and_counted():
    found = tune_on(Machine(), [pool(0, 1), *labelled_pools(3)])
    assert (found.pools, found.left_out) == (3, 1)


def test_queries_among_their_own_candidates_are_left_out_and_counted():
    pools = labelled_pools(3)
    own = [
        CandidatePool(each.query, [each.query, *each.documents], each.qid, [{"docid": each.qid}, *each.fields]) for each in pools
    ]
    found, expected = tune_on(Machine(), own), tune_on(Machine(), pools)
    assert (found.self_candidates, expected.self_candidates) == (3, 0)
    assert (found.given, [point.quality for point in found.points]) == (
        expected.given,
        [point.quality for point in expected.points],
    )


def own_pool(number, size=1, **own):
    """A pool of the query itself and `size` other candidates, of which the first is relevant."""
    each = pool(number, size, labels=[int(not place) for place in range(size)])
    fields = [{"docid": each.qid, **own}, *each.fields]
    return CandidatePool(each.query, [each.query, *each.documents], each.qid, fields)


def test_one_candidate_beside_the_query_itself_is_tuned_as_it_is_evaluated():
    found = tune_on(Machine(), [own_pool(0), own_pool(1), own_pool(2, 0), pool(3, 1)])
    assert (found.pools, found.left_out, found.self_candidates, found.given) == (2, 2, 2, 1.0)


def test_a_bad_label_is_named_by_its_place_in_the_file():
    with pytest.raises(InputError, match=r"pool 3 \(qid 'q2'\): candidates\[2\]: 'label' is a string, '1'"):
        tune_on(Machine(), [pool(0, 1), pool(1), replace(own_pool(2, 2), fields=[{"docid": "q2"}, {}, {"label": "1"}])])


def test_a_check_times_the_candidates_that_were_tuned(artifact, monkeypatch):
    timed = []
    monkeypatch.setattr(Bench, "milliseconds", lambda self, settings, each: timed.append(each.documents) or 1.0)
    each = own_pool(0, 3)
    for qrels in ({"q0": {"q0": 1}}, {"q0": {"d0": 1}}, None):
        tune([each], artifact, qrels=qrels, settings=Settings(threads=1, token_budget=64, precision="int8"), candidates=[4])
        [tuned] = {tuple(documents) for documents in timed}
        timed.clear()
        check([each], artifact, qrels=qrels, settings=Settings(threads=1), candidates=4, budget_ms=5)
        assert {tuple(documents) for documents in timed} == {tuned}
        timed.clear()


@pytest.mark.parametrize("candidates", [[], [0], [5, -1], ["5"], [True]])
def test_numbers_of_candidates_are_checked(candidates):
    with pytest.raises((InputError, TypeError), match="candidates"):
        tune_on(Machine(), labelled_pools(3), candidates=candidates)


def test_more_candidates_than_the_pools_have_are_all_of_them():
    found = tune_on(Machine(), labelled_pools(3), candidates=[100, 7, 50])
    assert [point.candidates for point in found.points] == [7, 40]


def test_a_tiny_artifact_is_tuned_from_end_to_end(artifact):
    stages = []
    found = tune(labelled_pools(3, 6, 2), artifact, candidates=[3, 6], report=lambda *stage: stages.append(stage))
    assert {point.candidates for point in found.points} == {3, 6}
    assert found.chosen in found.points
    assert {"timing", "ranking, int8", "ranking, float32"} <= {stage for stage, _, _ in stages}
    assert all(0 < done <= total for _, done, total in stages)
