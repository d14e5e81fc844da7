"""Measures the frontier of time and quality: every model and plan on the same pools, and a float32 reference.

    python -m benchmarks frontier FILE [FILE ...] --reference ARTIFACT [--model ARTIFACT ...] [--candidates 20 50 100]

FILEs are labelled data as for `resift eval`. Every ARTIFACT (default: the embedded model) runs with its first look only, with each
built-in plan that it has graphs for and with its own plan ("auto"), at the precision that the engine chooses; the reference runs
its full graph in float32. A plan with a split graph has two rows: with documents that are new in every call, and with documents
that a store has, of which nothing is in memory.

Times are measured first, on the first FILE, up to the line "times: done": each pool is ranked for the ten best by one system after
the other, in an order that rotates with every pool. "shuffled" is a plan's share of the reference's nDCG@10 on that FILE if the
candidates are shuffled, so that the order given does not help.

To measure the quality, each graph scores each pair once: a score depends on its pair alone, so the ranking of any plan and number
of candidates can be derived. A system's share is its nDCG@10 divided by the reference's, averaged over the FILEs, with the 95 %
interval from bootstrapping the queries of each; "lowest file" is its largest loss of nDCG@10 on a FILE. A FILE is used for the
sizes that its pools reach, and for the next larger one.

Prints a table and writes OUT/frontier.json and OUT/frontier.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.machine_facts import machine_facts
from benchmarks.planned_systems import TOP, PlannedSystem, load, name_of, prepare, systems_of
from resift.evaluate.data.dataset import read_dataset
from resift.evaluate.measures import Judge
from resift.plans import FULL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from resift import Reranker
    from resift.evaluate.data.dataset import Dataset
    from resift.pools.reading import CandidatePool

SEED = 7
RESAMPLES = 10_000
MEASURE = f"nDCG@{TOP}"
TICKS = [part * 10**power for power in range(5) for part in (1, 2, 5)]
"""Milliseconds labelled on the plot's axis."""
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--reference", required=True, help="an artifact with a float32 variant")
    parser.add_argument("--model", nargs="*", default=[""], metavar="ARTIFACT")
    parser.add_argument("--candidates", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--queries", type=int, help="use only the first N queries of each file")
    parser.add_argument("--timed", type=int, help="time only the first N pools")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    datasets = [read_dataset(path, limit=arguments.queries) for path in arguments.files]
    sizes = sorted(arguments.candidates)
    with tempfile.TemporaryDirectory(prefix="frontier-") as folder:
        systems = [
            PlannedSystem(f"{name_of(arguments.reference)} float32", FULL, load(arguments.reference, arguments.threads, "float32"))
        ]
        for artifact in arguments.model:
            reranker, timed = load(artifact, arguments.threads, "auto"), datasets[0].first(sizes[-1]).pools[: arguments.timed]
            systems += systems_of(name_of(artifact), reranker, prepare(reranker, timed, Path(folder)))
        times = [measure_times(systems, datasets[0].first(size), arguments.timed) for size in sizes]
    print("# times: done", file=sys.stderr, flush=True)
    values = [measure_quality(systems, dataset, sizes) for dataset in datasets]
    rows = []
    for number, size in enumerate(sizes):
        # A file whose pools are all smaller than the last size would count twice.
        before = sizes[number - 1] if number else 0
        larger = [place for place, dataset in enumerate(datasets) if max(len(pool.documents) for pool in dataset.pools) > before]
        found = {datasets[place].name: values[place][number] for place in larger}
        rows += [row(system, size, found, place, times[number]) for place, system in enumerate(systems)]
    print(table(rows))
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": machine_facts(),
        "threads": arguments.threads,
        "files": [dataset.name for dataset in datasets],
        "rows": rows,
    }
    (arguments.out / "frontier.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(rows, arguments.out / "frontier.png")
    return 0


class Times(NamedTuple):
    """The results of `measure_times`."""

    seconds: list[list[float]]
    """by system, the seconds of each pool"""
    shuffled: list[float]
    """by system, the mean measure with the candidates shuffled"""


def measure_times(systems: Sequence[PlannedSystem], dataset: Dataset, count: int | None) -> Times:
    """Lets every system rank the first `count` pools (None: all), timed, and then the same pools shuffled."""
    pools = dataset.pools[:count]
    seconds: list[list[float]] = [[] for _ in systems]
    orders: list[list[NDArray[np.int64]]] = [[] for _ in systems]
    for system in systems:
        system.rank(pools[0].query, pools[0].documents)
    for number, pool in enumerate(pools):
        shuffle = np.random.default_rng([SEED, number]).permutation(len(pool.documents))
        for turn in range(len(systems)):
            place = (turn + number) % len(systems)
            began = time.perf_counter()
            systems[place].rank(pool.query, pool.documents)
            seconds[place].append(time.perf_counter() - began)
        for system, found in zip(systems, orders, strict=True):
            if system.plan != FULL:
                found.append(shuffle[system.rank(pool.query, [pool.documents[position] for position in shuffle])])
    judge = _judge(replace(dataset, pools=pools))
    return Times(seconds, [float(judge.values(found)[MEASURE].mean()) if found else np.nan for found in orders])


def measure_quality(systems: Sequence[PlannedSystem], dataset: Dataset, sizes: Sequence[int]) -> list[list[NDArray[np.float64]]]:
    """By size and by system, the measure of each pool."""
    deepest = dataset.first(sizes[-1])
    logits: dict[object, list[dict[str, NDArray[np.float32]]]] = {}
    for system in systems:
        if system.key not in logits:
            logits[system.key] = [_logits(system.reranker, pool) for pool in deepest.pools]
            print(f"# {dataset.name}, {system.name}: read", file=sys.stderr, flush=True)
    found = []
    for size in sizes:
        judge = _judge(dataset.first(size))
        orders = [
            [system.order({graph: values[:size] for graph, values in pool.items()}) for pool in logits[system.key]]
            for system in systems
        ]
        found.append([judge.values(each)[MEASURE] for each in orders])
    return found


def row(system: PlannedSystem, size: int, files: Mapping[str, Sequence[NDArray[np.float64]]], place: int, times: Times) -> dict:
    """The figures of the system at index `place` for pools of `size`; `files`: the measure of each pool, by file and system."""
    pairs = [(values[place], values[0]) for values in files.values()]
    seconds, reference = np.array(times.seconds[place]), np.array(times.seconds[0])
    shuffled_share = times.shuffled[place] / float(next(iter(files.values()))[0][: len(seconds)].mean())
    return {
        "model": system.name,
        "plan": system.plan,
        "documents": system.documents,
        "candidates": size,
        "p50_ms": 1000 * float(np.median(seconds)),
        "p95_ms": 1000 * float(np.percentile(seconds, 95)),
        "times_faster": float(np.median(reference / seconds)),
        "ndcg": {name: float(values[place].mean()) for name, values in files.items()},
        "share": float(np.mean([found.mean() / best.mean() for found, best in pairs])),
        "interval": np.percentile(shares(pairs), [2.5, 97.5]).tolist(),
        "lowest_file": min(float(found.mean() - best.mean()) for found, best in pairs),
        "shuffled_share": None if np.isnan(shuffled_share) else shuffled_share,
    }


def shares(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    """float64[RESAMPLES]: bootstrap samples of the mean over files of a system's mean measure divided by the reference's."""
    generator = np.random.default_rng(SEED)
    found = []
    for values, best in pairs:
        drawn = generator.integers(0, len(values), (RESAMPLES, len(values)))
        found.append(values[drawn].mean(axis=1) / best[drawn].mean(axis=1))
    return np.mean(found, axis=0)


def table(rows: Sequence[dict]) -> str:
    """The rows as a Markdown table, with a column for documents if a plan has a split graph."""
    has_documents = any(row["documents"] != "-" for row in rows)
    heads = [*HEADS[:2], *(["documents"] if has_documents else []), *HEADS[2:]]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    for row in rows:
        low, high = row["interval"]
        cells = (
            row["model"],
            row["plan"],
            *([row["documents"]] if has_documents else []),
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
            axes.errorbar(row["p50_ms"], 100 * row["share"], yerr=errors, fmt="o", capsize=3, label=_label(row))
        axes.axvline(100, color="grey", linestyle=":", linewidth=1)
        axes.set(xscale="log", title=f"{size} candidates", xlabel="median ms a pool")
        low, high = axes.get_xlim()
        shown = [tick for tick in TICKS if low <= tick <= high]
        axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
        axes.set_xticks([], minor=True)
    figure.axes[0].set_ylabel(f"% of the reference's {MEASURE}")
    figure.axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _logits(reranker: Reranker, pool: CandidatePool) -> dict[str, NDArray[np.float32]]:
    """float32[n] by graph: the logits of all candidates by each graph of the model."""
    found = {}
    for graph in reranker.artifact.manifest.graphs:
        values = np.empty(len(pool.documents), np.float32)
        for result in reranker.rerank(pool.query, pool.documents, plan=graph.name):
            values[result.index] = result.logit
        found[graph.name] = values
    return found


def _judge(dataset: Dataset) -> Judge:
    qids = [str(pool.qid) for pool in dataset.pools]
    return Judge([MEASURE], qids, [[str(fields["docid"]) for fields in pool.fields] for pool in dataset.pools], dataset.qrels)


def _label(row: dict) -> str:
    parts = [row["model"], row["plan"], *([] if row["documents"] == "-" else [row["documents"]])]
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
