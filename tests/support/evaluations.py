"""Evaluations made up for the tests of the report."""

from __future__ import annotations

import random

from resift.evaluate import results

MEASURES = ["nDCG@10", "P@1"]
SIZES = [5, 10, 20]
HOSTILE = "\"'><script>alert(1)</script></style></title><img src=x onerror=alert(2)>{{ 7 * 7 }} $x^2$ & \u202egnp.\x00\ufffe\ud800"


def difference(value, low, high, p_value=0.001):
    return results.Difference(value=value, low=low, high=high, p_value=p_value)


def place(rank, given_rank, *, label=0, score=None, text="a text", docid=None):
    return results.Place(docid=docid or f"d{given_rank}", rank=rank, given_rank=given_rank, label=label, score=score, text=text)


def system(name, kind="artifact", *, number=40, quality=0.5, curve=(0.3, 0.45, 0.5), seed=0, **more):
    """A system whose mean is `quality` and whose queries lie around it."""
    chance = random.Random(seed)
    values = [quality + 0.2 * (chance.random() - 0.5) for _ in range(number)]
    return results.SystemResult(
        name=name,
        kind=kind,
        **{
            "measures": dict.fromkeys(MEASURES, quality),
            "per_query": dict.fromkeys(MEASURES, values),
            "by_size": {"nDCG@10": list(curve)},
            **more,
        },
    )


def given(*, number=40, **more):
    return system("order given", "given", number=number, **more)


def reranked(name="model int8", *, number=40, change=(0.2, 0.1, 0.3, 0.001), **more):
    """A system `change[0]` better than the order given, with the interval and p-value of `change`."""
    settings = {
        "quality": 0.5 + change[0],
        "curve": (0.4, 0.6, 0.602),
        "differences": {measure: difference(*change) for measure in MEASURES},
        "latency_ms": results.Latency(p50=90.5, p95=131.2),
        "pairs_per_second": 432.1,
        "precision": "int8",
        "source": "some/model",
        "scores": results.ScoreHistograms(edges=[-10, -5, 0, 5], relevant=[0, 2, 9], other=[20, 10, 1]),
        "agreement": results.SystemAgreement(reference="order given", tau=0.31, worst_tau=-0.2, overlap=0.47),
        "seed": 1,
    }
    return system(name, number=number, **{**settings, **more})


def evaluation(*systems, number=40, **more):
    """An evaluation of the order given and `systems`, by default of one that is better; `more` replaces its fields."""
    compared = [given(number=number), *(systems or [reranked(number=number)])]
    asked = [
        results.QueryResult(qid=f"q{row}", query=f"question {row}", candidates=20, relevant=2, judged_relevant=3)
        for row in range(number)
    ]
    before = [place(1, 1, label=1), place(2, 2)]
    after = [place(1, 2, score=4.5), place(2, 9, score=1.25)]
    fields = {
        "data": results.Data(
            name="harbours", format="pools", pools=number + 2, pairs=20 * number, judgements=900, left_out={"no judgement": 2}
        ),
        "baseline": "order given",
        "measures": MEASURES,
        "systems": compared,
        "queries": asked,
        "sizes": SIZES,
        "recall": [0.2, 0.5, 0.66],
        "regressions": [
            results.Regression(
                qid="q0",
                query="question 0",
                system="model int8",
                measure="nDCG@10",
                baseline=0.9,
                value=0.4,
                before=before,
                after=after,
            )
        ],
        "lengths": results.PairLengths(
            edges=[0, 256, 512, 768], counts=[5, 3, 2], max_length=512, pairs=10, pairs_cut=2, mean_share_cut=0.25
        ),
        "findings": [
            results.Finding(name="small-pools", severity="note", value=0.12, words="Small pools.", advice="Ask for more."),
            results.Finding(name="pairs-cut", severity="problem", value=0.2, words="Two pairs are cut.", advice="Split the texts."),
        ],
        "machine": "a processor, 2 threads",
        "versions": {"resift": "0.1.0", "onnxruntime": "1.29.0"},
        "created": "2025-01-02T03:04:05Z",
    }
    return results.Evaluation(**{**fields, **more})


def bare(number=3):
    """An evaluation without anything that may be missing."""
    alone = system("order given", "given", number=number, by_size={})
    return evaluation(number=number, systems=[alone], sizes=[], recall=[], regressions=[], lengths=None, findings=[], versions={})


def hostile():
    """An evaluation with markup, control characters and template syntax in every text."""
    query = results.QueryResult(qid=HOSTILE, query=HOSTILE, candidates=2, relevant=1, judged_relevant=1)
    spots = [place(1, 1, label=1, score=0.5, text=HOSTILE, docid=HOSTILE)]
    regression = results.Regression(
        qid=HOSTILE, query=HOSTILE, system=HOSTILE, measure="nDCG@10", baseline=0.5, value=0.1, before=spots, after=spots
    )
    finding = results.Finding(name=HOSTILE, severity="warning", value=1, words=HOSTILE, advice=HOSTILE)
    agreement = results.SystemAgreement(reference=HOSTILE, tau=1, worst_tau=1, overlap=1)
    return evaluation(
        number=1,
        data=results.Data(name=HOSTILE, format="trec", pools=1, pairs=2, judgements=1, left_out={HOSTILE: 1}),
        baseline=HOSTILE,
        systems=[
            system(HOSTILE, number=1, source=HOSTILE, precision=HOSTILE),
            reranked(HOSTILE * 2, number=1, agreement=agreement),
        ],
        queries=[query],
        regressions=[regression],
        findings=[finding],
        machine=HOSTILE,
        versions={HOSTILE: HOSTILE},
        created=HOSTILE,
    )
