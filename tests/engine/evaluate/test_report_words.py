"""The report's verdict and numbers: words no stronger than the intervals."""

from __future__ import annotations

import msgspec
import pytest

from resift.evaluate import results
from resift.evaluate.report import formats
from resift.evaluate.report.verdict import effect, rivals, sufficient_size, verdict
from tests.support.evaluations import bare, evaluation, given, reranked, system

SPACE, THIN, MINUS = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}", "\N{MINUS SIGN}"
BETTER, WORSE = (0.2, 0.1, 0.3, 0.001), (-0.2, -0.3, -0.1, 0.001)


def plain(text):
    return text.replace(SPACE, " ").replace(THIN, " ").replace(MINUS, "-")


def answers(found):
    return {question: plain(answer) for question, answer in verdict(found).answers}


@pytest.mark.parametrize(
    ("change", "kind", "title", "opening"),
    [
        (BETTER, "better", "Reranking raises nDCG@10 from 0.500 to 0.700", "Yes."),
        (WORSE, "worse", "Reranking lowers nDCG@10 from 0.500 to 0.300", "Not with this model."),
        (
            (0.01, -0.02, 0.04, 0.4),
            "unclear",
            "No measurable difference: nDCG@10 is 0.510 reranked, 0.500 as given",
            "Not shown to help.",
        ),
        (
            (0.0, 0.0, 0.0, 1.0),
            "unclear",
            "No measurable difference: nDCG@10 is 0.500 reranked, 0.500 as given",
            "Not shown to help.",
        ),
        (
            (0.01, 0.0001, 0.02, 0.06),
            "unclear",
            "No measurable difference: nDCG@10 is 0.510 reranked, 0.500 as given",
            "Not shown to help.",
        ),
    ],
)
def test_the_verdict_follows_interval_and_test(change, kind, title, opening):
    found = verdict(evaluation(reranked(change=change)))
    assert (found.effect, found.title) == (kind, title)
    assert found.answers[0][0] == "Rerank?"
    assert found.answers[0][1].startswith(opening)


def test_what_reranking_bought_at_which_price():
    text = answers(evaluation())["Rerank?"]
    assert "changes nDCG@10 by +0.2000, 95 % interval +0.1000 to +0.3000, p = 0.001." in text
    assert "A pool takes 90.5 ms at the median and 131 ms at p95." in text
    assert "Its latency was not measured." in answers(evaluation(reranked(latency_ms=None)))["Rerank?"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((0.01, -0.02, 0.04, 0.4), "The interval holds both gain and loss: more judged queries would narrow it."),
        ((0.001, -0.002, 0.004, 0.4), "If there is a difference, it is likely below 0.0040."),
        ((0.01, 0.0001, 0.02, 0.06), "Interval and test disagree: this is a borderline result."),
        ((0.01, -0.0001, 0.02, 0.04), "Interval and test disagree: this is a borderline result."),
    ],
)
def test_a_difference_that_is_not_shown_is_not_called_none(change, words):
    assert words in answers(evaluation(reranked(change=change)))["Rerank?"]
    assert words not in answers(evaluation())["Rerank?"]


def test_queries_better_and_worse_are_counted():
    before = given(number=4, per_query={"nDCG@10": [0.5, 0.5, 0.5, 0.5]})
    after = reranked(number=4, per_query={"nDCG@10": [0.9, 0.6, 0.5, 0.1]})
    text = answers(evaluation(number=4, systems=[before, after]))["Rerank?"]
    assert "It is better on 2 of 4 queries, worse on 1." in text


def test_few_queries_are_a_first_impression():
    found = evaluation(number=7)
    assert verdict(found).title == "Reranking raises nDCG@10 from 0.500 to 0.700 on only 7 queries"
    assert answers(found)["Rerank?"].startswith("A first impression only: 7 queries.")
    assert "only" not in verdict(evaluation(number=25)).title


def test_one_query_says_nothing_about_others():
    text = answers(evaluation(number=1))["Rerank?"]
    assert "one query says nothing about others" in text
    assert "interval" not in text


def test_without_a_difference_chance_is_not_ruled_out():
    found = evaluation(reranked(differences={}))
    assert verdict(found).effect == "unclear"
    assert "chance cannot be ruled out" in answers(found)["Rerank?"]


def test_no_queries_no_verdict():
    found = verdict(evaluation(number=0))
    assert (found.title, found.effect) == ("No query could be evaluated", None)
    assert found.answers == [("Why?", "Queries left out: 2: no judgement.")]


def test_one_order_alone():
    found = verdict(bare())
    assert (found.title, found.effect) == ("order given: nDCG@10 0.500", None)


def test_another_baseline_is_named():
    systems = [system("float32"), reranked("int8", change=(0.001, -0.004, 0.005, 0.7))]
    found = evaluation(systems=systems, baseline="float32")
    assert verdict(found).title == "No measurable difference: nDCG@10 is 0.501 with int8, 0.500 with float32"
    assert answers(found)["int8 instead of float32?"].startswith("Not shown to differ.")
    better = evaluation(systems=[system("float32"), reranked("int8")], baseline="float32")
    assert verdict(better).title == "int8 ranks better than float32: nDCG@10 0.700 against 0.500"


def test_the_best_is_told_from_the_nearly_as_good_and_faster():
    slow = reranked("large", latency_ms=results.Latency(p50=900, p95=950))
    near = reranked("small", quality=0.695, latency_ms=results.Latency(p50=90, p95=95))
    far = reranked("tiny", quality=0.6, latency_ms=results.Latency(p50=9, p95=9))
    text = answers(evaluation(far, near, slow))["Which model?"]
    assert "large has the highest nDCG@10 of 3, 0.7000" in text
    assert "small is 0.0050 behind and takes 90.0 ms instead of 900 ms" in text
    assert "tiny" not in text
    assert "behind" not in answers(evaluation(far, slow))["Which model?"]


def test_among_equals_the_faster_comes_first():
    slow = reranked("a", latency_ms=results.Latency(p50=900, p95=950))
    untimed, fast = reranked("b", latency_ms=None), reranked("c")
    assert [found.name for found in rivals(evaluation(slow, untimed, fast))] == ["c", "a", "b"]


def test_systems_that_rank_alike_tie():
    one, other = reranked("a"), reranked("b")
    assert answers(evaluation(one, other))["Which model?"] == "a and b tie: nDCG@10 0.7000, the same on every query."
    third, last = reranked("c", quality=0.70001, seed=2), reranked("d", quality=0.6)
    text = answers(evaluation(one, other, third, last))["Which model?"]
    assert text == "c, a and b tie: nDCG@10 0.7000. Next is d with 0.6000."


def test_a_system_that_ranks_like_the_baseline_is_not_compared_further():
    text = answers(evaluation(reranked(change=(0.0, 0.0, 0.0, 1.0), seed=0)))["Rerank?"]
    assert "nDCG@10 is the same on every query." in text
    assert "better" not in text
    assert "likely below" not in text


def test_where_candidates_were_cut_the_option_is_to_be_raised():
    cut = msgspec.structs.replace(evaluation().data, cut_at=20)
    text = answers(evaluation(reranked(curve=(0.4, 0.6, 0.7)), data=cut))["How many candidates?"]
    assert "nDCG@10 still rises at 20, the largest number tried: raise --candidates (depth in Python)." in text
    assert "retriever for more" not in text


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ((0.4, 0.6, 0.602), "From the first 10 on, more candidates add less than 0.005 to nDCG@10."),
        ((0.4, 0.6, 0.7), "nDCG@10 still rises at 20, the largest number tried: ask the retriever for more."),
        ((0.4, 0.7, 0.6), "nDCG@10 is highest with the first 10 and lower with 20"),
        ((0.6, 0.6, 0.6), "From the first 5 on"),
    ],
)
def test_how_many_candidates(curve, words):
    text = answers(evaluation(reranked(curve=curve)))["How many candidates?"]
    assert words in text
    assert "Measured with 20 candidates a query." in text
    assert "The first 20 hold 66 % of the relevant documents" in text


def test_recall_within_judged_pools_is_qualified():
    asked = [
        results.QueryResult(qid=f"{row}", query="a question", candidates=row + 1, relevant=1, judged_relevant=1)
        for row in range(40)
    ]
    text = answers(evaluation(queries=asked))["How many candidates?"]
    assert "Measured with 1 to 40, median 20.5 candidates a query." in text
    assert "If only these pools were judged, that hides what the retriever missed." in text
    assert "The first 20 hold all relevant documents." in answers(evaluation(recall=[0.5, 1.0, 1.0]))["How many candidates?"]
    assert "hides" not in answers(evaluation())["How many candidates?"]


def test_enough_is_the_smallest_size_near_the_best():
    assert sufficient_size([1, 2, 3], [0.1, 0.5, 0.504]) == 2
    assert sufficient_size([1, 2, 3], [0.5, 0.1, 0.2]) == 1


def test_standing_needs_both():
    assert effect(None) == "unclear"
    assert effect(results.Difference(value=1, low=0.5, high=1, p_value=0.049)) == "better"
    assert effect(results.Difference(value=1, low=0.0, high=1, p_value=0.01)) == "unclear"


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (formats.signed(0.00361), "+0.0036"),
        (formats.signed(-0.25), "-0.2500"),
        (formats.signed(-0.00001), "0.0000"),
        (formats.p_value(0.0002), "p < 0.001"),
        (formats.p_value(0.0123), "p = 0.012"),
        (formats.milliseconds(0.4), "0.40 ms"),
        (formats.milliseconds(9.999), "10.00 ms"),
        (formats.milliseconds(42.345), "42.3 ms"),
        (formats.milliseconds(431.4), "431 ms"),
        (formats.milliseconds(1599.2), "1,599 ms"),
        (formats.milliseconds(12345), "12.3 s"),
        (formats.milliseconds(3e6), "3,000 s"),
        (formats.count(4300), "4,300"),
        (formats.many(1, "query", "queries"), "1 query"),
        (formats.percent(0), "0 %"),
        (formats.percent(0.0004), "less than 0.1 %"),
        (formats.percent(0.034), "3.4 %"),
        (formats.percent(0.05), "5 %"),
        (formats.percent(0.474), "47 %"),
        (formats.percent(0.9999), "99.9 %"),
        (formats.percent(1), "100 %"),
        (formats.axis(-1000), "-1,000"),
        (formats.axis(0.5), "0.5"),
    ],
)
def test_numbers(shown, wanted):
    assert plain(shown) == wanted


def test_texts_are_one_line_cut_at_their_limit():
    assert formats.text(" a\n b\t c ") == "a b c"
    assert formats.text("x" * 200) == "x" * 200
    assert formats.text("x" * 201) == "x" * 200 + " …"
    assert formats.text("a" + " " * 5000 + "b", 10) == "a …"
    assert formats.text("\u202ea\x00") == r"\u202ea\x00"


def test_findings_are_sentences():
    assert formats.sentence("half of the pools") == "Half of the pools."
    assert formats.sentence("Split the texts.") == "Split the texts."


def test_names_keep_their_ends():
    assert formats.brief("model") == "model"
    assert formats.brief("a" * 30 + "b" * 30, 9) == "aaaa…bbbb"
    assert formats.brief("\ufffe") == "\ufffd"


def test_the_bounds_of_a_measure_are_known_by_its_name():
    assert formats.bounds("nDCG@10") == formats.bounds("P(rel=2)@5") == formats.bounds("MAP") == (0, 1)
    assert formats.bounds("NumRet") == (float("-inf"), float("inf"))


def test_measures_are_explained_by_name():
    assert "first 10" in formats.meaning("nDCG@10")
    assert "first document" in formats.meaning("P@1")
    assert "first 5" in formats.meaning("P@5")
    assert formats.meaning("AP") == formats.meaning("AP@100")
    assert formats.meaning("Judged@10") is None
