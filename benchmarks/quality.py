"""Ranking quality on labelled pools: the order given, the checkpoint in PyTorch, and an artifact's graphs.

    python -m benchmarks.quality DATA.jsonl.gz... --model ARTIFACT [--checkpoint FOLDER] [--json FILE]

DATA holds pools with "label"s; DATA.qrels beside it (TREC format) is used where present, so that nDCG has its ideal outside
the pool, as published figures have. The measure is trec_eval's ndcg_cut.10, by pytrec_eval.
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
from resift.parity import kendall_tau, logits_of, top_overlap
from resift.pools import CandidatePool, read_pools

if TYPE_CHECKING:
    from collections.abc import Callable

    Scorer = Callable[[str, list[str]], np.ndarray]

MEASURE = "ndcg_cut_10"
RESAMPLES = 10_000
SEED = 11
STRAY = "a long stray document beside the others " * 80
"""Some 560 tokens: cut to the longest row the model reads."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--model", help="artifact (default: the embedded model)")
    parser.add_argument("--checkpoint", help="also score with this checkpoint in PyTorch; then it is the reference")
    parser.add_argument("--invariance", action="store_true", help="also score each document alone and beside a long one")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    rows = []
    for path in asked.data:
        pools = [pool for pool in read_pools(path) if len(pool.documents) > 1]
        qrels = read_qrels(path, pools)
        given = [-np.arange(len(pool.documents), dtype=np.float64) for pool in pools]
        found = {"order given": given} | {name: score_all(name, scorer, pools) for name, scorer in scorers(asked).items()}
        rows += [row(path, name, pools, qrels, found) for name in found]
        if asked.invariance:
            rows[-1]["invariance"] = invariance(Reranker.load(asked.model), pools)
    for line in rows:
        print(json.dumps(line))
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


def scorers(asked: argparse.Namespace) -> dict[str, Scorer]:
    """The systems to compare, by name: the reference first, the one in question last."""
    systems: dict[str, Scorer] = {}
    if asked.checkpoint:
        from resift_export.checkpoint import load

        systems["pytorch"] = load(asked.checkpoint).reference
    offered = {variant.precision for variant in Artifact.find(asked.model).manifest.full.variants}
    for precision in sorted(offered):
        reranker = Reranker.load(asked.model, settings=Settings(precision=precision))
        systems[precision] = lambda query, documents, reranker=reranker: logits_of(reranker, query, documents)
    return systems


def score_all(name: str, scorer: Scorer, pools: list[CandidatePool]) -> list[np.ndarray]:
    start = time.perf_counter()
    scores = [scorer(pool.query, pool.documents) for pool in pools]
    print(f"# {name}: {sum(map(len, scores))} pairs in {time.perf_counter() - start:.0f} s", flush=True)
    return scores


def row(path: Path, name: str, pools: list[CandidatePool], qrels: dict, found: dict) -> dict[str, object]:
    reference = next((other for other in ("pytorch", "float32") if other in found), None)
    measured = ndcg(pools, qrels, found[name])
    line: dict[str, object] = {"data": path.name, "pools": len(pools), "system": name, "nDCG@10": round(float(measured.mean()), 4)}
    if reference and name not in ("order given", reference):
        pairs = list(zip(found[reference], found[name], strict=True))
        taus = [kendall_tau(*pair) for pair in pairs]
        line |= {
            "tau": round(float(np.mean(taus)), 4),
            "worst_tau": round(float(np.min(taus)), 4),
            "overlap@10": round(float(np.mean([top_overlap(*pair) for pair in pairs])), 4),
            "largest_logit_error": float(max(np.abs(first - second).max() for first, second in pairs)),
        }
        exact = "float32" if "float32" in found else reference
        differences = measured - ndcg(pools, qrels, found[exact])
        random = np.random.default_rng(SEED)
        means = differences[random.integers(0, len(differences), (RESAMPLES, len(differences)))].mean(axis=1)
        line[f"minus_{exact}"] = round(float(differences.mean()), 4)
        line["bootstrap_95"] = [round(float(bound), 4) for bound in np.percentile(means, [2.5, 97.5])]
    return line


def ndcg(pools: list[CandidatePool], qrels: dict, scores: list[np.ndarray]) -> np.ndarray:
    """float64[pools]; trec_eval breaks ties by document id, so equal scores are told apart by place first."""
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
    """Largest difference of a document's logit in its pool to that alone, and to that beside a document of 500 tokens."""
    alone, beside = 0.0, 0.0
    for pool in pools:
        together = logits_of(reranker, pool.query, pool.documents)
        singly = np.array([logits_of(reranker, pool.query, [document])[0] for document in pool.documents])
        reversed_beside = logits_of(reranker, pool.query, [STRAY, *reversed(pool.documents)])[:0:-1]
        alone = max(alone, float(np.abs(singly - together).max()))
        beside = max(beside, float(np.abs(reversed_beside - together).max()))
    return {"alone": alone, "reversed_beside_a_long_document": beside}


if __name__ == "__main__":
    main()
