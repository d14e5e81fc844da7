"""The frontier of time and quality: every model and plan on the same pools, beside the reference in float32.

    python -m benchmarks.frontier FILE [FILE ...] --reference ARTIFACT [--model ARTIFACT ...] [--candidates 20 50 100]

FILEs are labelled data as `resift eval` takes them. Every ARTIFACT (default: the embedded model) runs with each built-in plan that
it can follow and its own ("auto"), at the precision that the engine chooses; the reference runs in full with its float32 variant.
All return their ten best, in one process, pool by pool and in an order that turns with every pool. Times are of the first FILE. A
system's share is its nDCG@10 over the reference's, the mean over the FILEs, with the 95 % interval of bootstrapping the queries of
each; "lowest file" is its largest loss of nDCG@10 on a FILE. "shuffled" is the share with the candidates of every pool shuffled,
which a plan with a first look must not notice. A FILE counts at the sizes that it has pools of, and at the first that is larger.
Prints a table and writes OUT/frontier.json and OUT/frontier.png.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resift import Reranker, Settings, machine
from resift.evaluate.data.dataset import read_dataset
from resift.evaluate.measures import Judge
from resift.plans import BUILT_IN, FIRST_LOOK, FULL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.evaluate.data.dataset import Dataset
    from resift.pools import CandidatePool

SEED = 7
RESAMPLES = 10_000
TOP = 10
MEASURE = f"nDCG@{TOP}"
HEADS = (
    "model",
    "plan",
    "candidates",
    "p50 ms",
    "p95 ms",
    "times faster",
    f"share of {MEASURE}",
    "95 % interval",
    "lowest file",
    "shuffled",
)


@dataclass
class System:
    """A model with a plan, and what it did on the pools of one file and size."""

    name: str
    plan: str
    reranker: Reranker
    seconds: list[float] = field(default_factory=list)
    orders: list[NDArray[np.int64]] = field(default_factory=list)

    def rank(self, pool: CandidatePool, documents: Sequence[str]) -> list[int]:
        """Positions of the ten best; the time is kept."""
        began = time.perf_counter()
        ranking = self.reranker.rerank(pool.query, documents, top_k=TOP, plan=self.plan)
        self.seconds.append(time.perf_counter() - began)
        return [result.index for result in ranking]

    def taken(self) -> tuple[list[float], list[NDArray[np.int64]]]:
        """Seconds and orders since the last call."""
        found = self.seconds, self.orders
        self.seconds, self.orders = [], []
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--reference", required=True, help="an artifact with a float32 variant")
    parser.add_argument("--model", nargs="*", default=[""], metavar="ARTIFACT")
    parser.add_argument("--candidates", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--queries", type=int, help="take the first of each file only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path())
    asked = parser.parse_args()
    print(f"# {machine.description()}; {asked.threads} threads")
    systems = [System(f"{_name(asked.reference)} float32", FULL, _load(asked.reference, asked.threads, "float32"))]
    for artifact in asked.model:
        reranker = _load(artifact, asked.threads, "auto")
        systems += [System(_name(artifact), plan, reranker) for plan in _plans(reranker)]
    datasets = [read_dataset(path, limit=asked.queries) for path in asked.files]
    rows: list[dict] = []
    before = 0
    for size in sorted(asked.candidates):
        # A file whose pools are all smaller than the last size would be measured twice.
        larger = [dataset for dataset in datasets if max(len(pool.documents) for pool in dataset.pools) > before]
        before = size
        rows += measured(systems, [dataset.first(size) for dataset in larger], size)
    print(table(rows))
    asked.out.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": machine.description(),
        "threads": asked.threads,
        "files": [dataset.name for dataset in datasets],
        "rows": rows,
    }
    (asked.out / "frontier.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(rows, asked.out / "frontier.png")
    return 0


def measured(systems: Sequence[System], datasets: Sequence[Dataset], size: int) -> list[dict]:
    """A row for each system on pools of `size` candidates; the first system is the reference."""
    values: list[list[NDArray[np.float64]]] = [[] for _ in systems]
    shuffled: list[list[float]] = [[] for _ in systems]
    seconds = [np.empty(0) for _ in systems]
    for number, dataset in enumerate(datasets):
        judge = Judge(
            [MEASURE],
            [str(pool.qid) for pool in dataset.pools],
            [[str(fields["docid"]) for fields in pool.fields] for pool in dataset.pools],
            dataset.qrels,
        )
        run(systems, dataset.pools)
        for place, system in enumerate(systems):
            spent, orders = system.taken()
            values[place].append(judge.values(orders)[MEASURE])
            seconds[place] = seconds[place] if number else np.array(spent)
        planned = [(place, system) for place, system in enumerate(systems) if system.plan != FULL]
        run([system for _, system in planned], dataset.pools, mixed=True)
        for place, system in planned:
            shuffled[place].append(float(judge.values(system.taken()[1])[MEASURE].mean()))
        print(f"# {dataset.name}, {size} candidates: done", file=sys.stderr, flush=True)
    best = [found.mean() for found in values[0]]
    return [
        {
            "model": system.name,
            "plan": system.plan,
            "candidates": size,
            "p50_ms": 1000 * float(np.median(seconds[place])),
            "p95_ms": 1000 * float(np.percentile(seconds[place], 95)),
            "times_faster": float(np.median(seconds[0] / seconds[place])),
            "ndcg": {dataset.name: float(found.mean()) for dataset, found in zip(datasets, values[place], strict=True)},
            "share": float(np.mean([found.mean() / mean for found, mean in zip(values[place], best, strict=True)])),
            "interval": np.percentile(shares([*zip(values[place], values[0], strict=True)]), [2.5, 97.5]).tolist(),
            "lowest_file": min(float(found.mean() - mean) for found, mean in zip(values[place], best, strict=True)),
            "shuffled_share": float(np.mean(np.divide(shuffled[place], best))) if shuffled[place] else None,
        }
        for place, system in enumerate(systems)
    ]


def run(systems: Sequence[System], pools: Sequence[CandidatePool], *, mixed: bool = False) -> None:
    """Has every system rank every pool, in turn; with `mixed`, candidates are shuffled, and their places looked up again."""
    for system in systems:
        system.rank(pools[0], pools[0].documents)
        system.taken()
    for number, pool in enumerate(pools):
        order = list(range(len(pool.documents)))
        if mixed:
            random.Random(f"{SEED} {number}").shuffle(order)
        documents = [pool.documents[place] for place in order]
        first = number % len(systems) if systems else 0
        for system in [*systems[first:], *systems[:first]]:
            system.orders.append(np.array([order[index] for index in system.rank(pool, documents)]))


def shares(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    """float64[RESAMPLES]: the mean over files of a system's mean measure over the reference's, queries drawn again in each file."""
    generator = np.random.default_rng(SEED)
    found = []
    for own, best in pairs:
        drawn = generator.integers(0, len(own), (RESAMPLES, len(own)))
        found.append(own[drawn].mean(axis=1) / best[drawn].mean(axis=1))
    return np.mean(found, axis=0)


def table(rows: Sequence[dict]) -> str:
    """The rows as a Markdown table."""
    lines = [" | ".join(HEADS), " | ".join(["---"] * len(HEADS))]
    for row in rows:
        low, high = row["interval"]
        cells = (
            row["model"],
            row["plan"],
            str(row["candidates"]),
            f"{row['p50_ms']:.0f}",
            f"{row['p95_ms']:.0f}",
            f"{row['times_faster']:.1f}",
            f"{row['share']:.1%}",
            f"[{low:.1%}, {high:.1%}]",
            f"{row['lowest_file']:+.3f}",
            "-" if row["shuffled_share"] is None else f"{row['shuffled_share']:.1%}",
        )
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def plot(rows: Sequence[dict], path: Path) -> None:
    """Time against quality, a panel for each number of candidates."""
    from matplotlib.figure import Figure

    sizes = sorted({row["candidates"] for row in rows})
    figure = Figure(figsize=(4 * len(sizes), 3.6), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0], sizes, strict=True):
        for row in (row for row in rows if row["candidates"] == size):
            low, high = row["interval"]
            errors = [[100 * (row["share"] - low)], [100 * (high - row["share"])]]
            axes.errorbar(
                row["p50_ms"], 100 * row["share"], yerr=errors, fmt="o", capsize=3, label=f"{row['model']}, {row['plan']}"
            )
        axes.axvline(100, color="grey", linestyle=":", linewidth=1)
        axes.set(xscale="log", title=f"{size} candidates", xlabel="median ms a pool")
    figure.axes[0].set_ylabel(f"% of the reference's {MEASURE}")
    figure.axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _load(artifact: str, threads: int, precision: str) -> Reranker:
    return Reranker.load(artifact or None, settings=Settings(threads=threads, precision=precision))


def _plans(reranker: Reranker) -> list[str]:
    """The built-in plans that the artifact has graphs for, and its own ("auto") if that is none of them."""
    manifest = reranker.artifact.manifest
    if all(graph.role != FIRST_LOOK for graph in manifest.graphs):
        return [FULL]
    known = {str(plan) for plan in BUILT_IN.values()} | {*BUILT_IN, None}
    return [*BUILT_IN, *([] if manifest.plan in known else ["auto"])]


def _name(artifact: str) -> str:
    return Path(artifact).name if artifact else "embedded"


if __name__ == "__main__":
    sys.exit(main())
