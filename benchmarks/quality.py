"""Ranking quality on labelled pools: the order given, the checkpoint in PyTorch, and an artifact's variants.

    python -m benchmarks.quality DATA.jsonl.gz... [--model ARTIFACT] [--checkpoint FOLDER] [--json FILE]

DATA holds pools whose candidates have a "docid" and a "label". If there is a DATA.qrels next to it (TREC format), nDCG is computed
against all its judgements, including documents outside the pool, as published figures are. The measure is trec_eval's ndcg_cut.10,
by pytrec_eval.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytrec_eval

from resift import Reranker, Settings
from resift.artifact import Artifact
from resift.parity import kendall_tau, top_overlap
from resift.pools import CandidatePool, read_pools

if TYPE_CHECKING:
    from collections.abc import Callable

    Scorer = Callable[[str, list[str]], np.ndarray]

MEASURE = "ndcg_cut_10"
RESAMPLES = 10_000
SEED = 11
STRAY = "a long stray document beside the others " * 80
"""Some 560 tokens: cut to the longest pair the model reads."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--model", help="artifact (default: the embedded model)")
    parser.add_argument("--checkpoint", help="also score with this checkpoint in PyTorch, and use it as the reference")
    parser.add_argument("--invariance", action="store_true", help="also score each document alone and next to a long one")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    asked = parser.parse_args()
    rows: list[dict[str, object]] = []
    for path in asked.data:
        pools = [pool for pool in read_pools(path) if len(pool.documents) > 1]
        qrels = read_qrels(path, pools)
        given = [-np.arange(len(pool.documents), dtype=np.float64) for pool in pools]
        scores = {name: score_all(name, scorer, pools) for name, scorer in scorers(asked).items()}
        measured = {name: ndcg(pools, qrels, found) for name, found in {"order given": given, **scores}.items()}
        compared = agreements(scores, measured)
        rows += [
            {"data": path.name, "pools": len(pools), "system": name, "nDCG@10": round(float(values.mean()), 4)}
            | compared.get(name, {})
            for name, values in measured.items()
        ]
        if asked.invariance:
            rows[-1]["invariance"] = invariance(Reranker.load(asked.model), pools)
    for line in rows:
        print(json.dumps(line))
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


def scorers(asked: argparse.Namespace) -> dict[str, Scorer]:
    """The systems to compare, by name: the reference first, the system under test last."""
    systems: dict[str, Scorer] = {}
    if asked.checkpoint:
        from resift_export.checkpoint import load

        systems["pytorch"] = load(asked.checkpoint).reference
    offered = {variant.precision for variant in Artifact.find(asked.model).manifest.full.variants}
    for precision in sorted(offered):
        reranker = Reranker.load(asked.model, settings=Settings(precision=precision))
        systems[precision] = reranker.logits
    return systems


def score_all(name: str, scorer: Scorer, pools: list[CandidatePool]) -> list[np.ndarray]:
    start = time.perf_counter()
    scores = [scorer(pool.query, pool.documents) for pool in pools]
    print(f"# {name}: {sum(map(len, scores))} pairs in {time.perf_counter() - start:.0f} s", flush=True)
    return scores


def agreements(scores: dict[str, list[np.ndarray]], measured: dict[str, np.ndarray]) -> dict[str, dict[str, object]]:
    """For each system but the reference: its agreement with the reference, and its nDCG@10 minus that of exact scores.

    Exact scores are those of the float32 variant, if there is one, or else the reference's.
    """
    reference, *others = scores
    exact = "float32" if "float32" in scores else reference
    lines: dict[str, dict[str, object]] = {}
    for name in others:
        pairs = list(zip(scores[reference], scores[name], strict=True))
        taus = [kendall_tau(*pair) for pair in pairs]
        differences = measured[name] - measured[exact]
        random = np.random.default_rng(SEED)
        means = differences[random.integers(0, len(differences), (RESAMPLES, len(differences)))].mean(axis=1)
        lines[name] = {
            "tau": round(float(np.mean(taus)), 4),
            "worst_tau": round(float(np.min(taus)), 4),
            "overlap@10": round(float(np.mean([top_overlap(*pair) for pair in pairs])), 4),
            "largest_logit_error": float(max(np.abs(first - second).max() for first, second in pairs)),
            f"minus_{exact}": round(float(differences.mean()), 4),
            "bootstrap_95": [round(float(bound), 4) for bound in np.percentile(means, [2.5, 97.5])],
        }
    return lines


def ndcg(pools: list[CandidatePool], qrels: dict, scores: list[np.ndarray]) -> np.ndarray:
    """nDCG@10, float64[pools]. trec_eval breaks ties by document id, so ranks are passed in place of scores."""
    runs = {}
    for pool, values in zip(pools, scores, strict=True):
        order = np.argsort(-values, kind="stable")
        runs[str(pool.qid)] = {str(pool.fields[index]["docid"]): float(-rank) for rank, index in enumerate(order)}
    results = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(runs)
    return np.array([results[qid][MEASURE] for qid in runs if qid in results])


def read_qrels(path: Path, pools: list[CandidatePool]) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    file = path.with_name(path.name.split(".")[0] + ".qrels")
    if file.exists():
        for line in file.read_text().splitlines():
            qid, _, docid, label = line.split()
            judged[qid][docid] = int(label)
    else:
        for pool in pools:
            judged[str(pool.qid)] = {str(fields["docid"]): int(fields["label"]) for fields in pool.fields}
    return dict(judged)


def invariance(reranker: Reranker, pools: list[CandidatePool]) -> dict[str, float]:
    """Largest difference between a document's logit in its pool and its logit alone, and next to a document of 512 tokens."""
    alone, beside = 0.0, 0.0
    for pool in pools:
        together = reranker.logits(pool.query, pool.documents)
        singly = np.array([reranker.logits(pool.query, [document])[0] for document in pool.documents])
        reversed_beside = reranker.logits(pool.query, [STRAY, *reversed(pool.documents)])[1:][::-1]
        alone = max(alone, float(np.abs(singly - together).max()))
        beside = max(beside, float(np.abs(reversed_beside - together).max()))
    return {"alone": alone, "reversed_beside_a_long_document": beside}


if __name__ == "__main__":
    main()
