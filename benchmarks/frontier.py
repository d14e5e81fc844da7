"""The frontier of time and quality: every model and plan on the same pools, beside the reference in float32.

    python -m benchmarks.frontier FILE [FILE ...] --reference ARTIFACT [--model ARTIFACT ...] [--candidates 20 50 100]

FILEs are labelled data as `resift eval` takes them. Every ARTIFACT (default: the embedded model) runs with each built-in plan that
it can follow, at the precision that the engine chooses; the reference runs in full with its float32 variant. All return their ten
best, in one process, pool by pool and in an order that turns with every pool. Times are of the first FILE. A system's share is its
nDCG@10 over the reference's, the mean over the FILEs, with the 95 % interval of bootstrapping the queries of each; "lowest file" is
its largest loss of nDCG@10 on a FILE. "shuffled" is the share with the candidates of every pool shuffled, which a plan must not
notice.
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
from resift.plans import BUILT_IN, FIRST_LOOK

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
    systems = [System(f"{_name(asked.reference)} float32", "full", _load(asked.reference, asked.threads, "float32"))]
    for artifact in asked.model:
        reranker = _load(artifact, asked.threads, "auto")
        plans = BUILT_IN if _has_look(reranker) else ["full"]
        systems += [System(_name(artifact), plan, reranker) for plan in plans]
    datasets = [read_dataset(path, limit=asked.queries) for path in asked.files]
    rows = [row for size in asked.candidates for row in measured(systems, [dataset.first(size) for dataset in datasets], size)]
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
    quality: list[list[NDArray[np.float64]]] = []
    shuffled: list[list[float]] = []
    seconds: list[list[float]] = []
    for number, dataset in enumerate(datasets):
        judge = Judge(
            [MEASURE],
            [str(pool.qid) for pool in dataset.pools],
            [[str(fields["docid"]) for fields in pool.fields] for pool in dataset.pools],
            dataset.qrels,
        )
        for mixed in (False, True):
            run(systems, dataset.pools, mixed=mixed)
            taken = [system.taken() for system in systems]
            values = [judge.values(orders)[MEASURE] for _, orders in taken]
            if mixed:
                shuffled.append([float(found.mean()) for found in values])
            else:
                quality.append(values)
                seconds = seconds if number else [spent for spent, _ in taken]
        print(f"# {dataset.name}, {size} candidates: done", file=sys.stderr, flush=True)
    rows = []
    for place, system in enumerate(systems):
        pairs = [(values[place], values[0]) for values in quality]
        own, base = np.array(seconds[place]), np.array(seconds[0])
        low, high = np.percentile(shares(pairs), [2.5, 97.5])
        rows.append(
            {
                "model": system.name,
                "plan": system.plan,
                "candidates": size,
                "p50_ms": 1000 * float(np.median(own)),
                "p95_ms": 1000 * float(np.percentile(own, 95)),
                "times_faster": float(np.median(base / own)),
                "ndcg": {dataset.name: float(found.mean()) for dataset, (found, _) in zip(datasets, pairs, strict=True)},
                "share": float(np.mean([found.mean() / best.mean() for found, best in pairs])),
                "interval": [float(low), float(high)],
                "lowest_file": min(float(found.mean() - best.mean()) for found, best in pairs),
                "shuffled_share": float(
                    np.mean([mean[place] / best.mean() for mean, (_, best) in zip(shuffled, pairs, strict=True)])
                ),
            }
        )
    return rows


def run(systems: Sequence[System], pools: Sequence[CandidatePool], *, mixed: bool) -> None:
    """Has every system rank every pool, in turn; with `mixed`, candidates are shuffled, and their places looked up again."""
    for system in systems:
        system.rank(pools[0], pools[0].documents)
        system.taken()
    for number, pool in enumerate(pools):
        order = list(range(len(pool.documents)))
        if mixed:
            random.Random(f"{SEED} {number}").shuffle(order)
        documents = [pool.documents[place] for place in order]
        first = number % len(systems)
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
            f"{row['shuffled_share']:.1%}",
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


def _has_look(reranker: Reranker) -> bool:
    return any(graph.role == FIRST_LOOK for graph in reranker.artifact.manifest.graphs)


def _name(artifact: str) -> str:
    return Path(artifact).name if artifact else "embedded"


if __name__ == "__main__":
    sys.exit(main())
