"""Compares resift with sentence-transformers on PyTorch.

    python -m benchmarks --checkpoint FOLDER_OR_HUB_ID [--pools POOLS.jsonl.gz] [--candidates 20 30 50 100]

The first run creates a virtual environment for each contender under .bench. The default pools are those of the built-in gate, each
filled up with the documents of the others, and TREC DL 2019 if the shared material is next to the repository. Prints a table and
writes OUT/compare.json and OUT/compare.png. Compare ratios, and only within one run.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import resift_export
from benchmarks.compare import PYTORCH, REPOSITORY, RESIFT, compare, machine
from resift.pools.reading import CandidatePool
from resift.pools.source import read_pools

SHARED = Path(os.environ.get("RESIFT_SHARED", REPOSITORY.parent / "shared"))
CHECKPOINT = SHARED / "models" / "ms-marco-MiniLM-L12-v2"
DL19 = SHARED / "data" / "eval" / "dl19.jsonl.gz"
GATE_POOLS = Path(resift_export.__file__).parent / "data" / "gate.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    hub_id = "cross-encoder/ms-marco-MiniLM-L12-v2"
    parser.add_argument(
        "--checkpoint",
        default=str(CHECKPOINT) if CHECKPOINT.is_dir() else hub_id,
        help="weights for PyTorch (default: %(default)s)",
    )
    parser.add_argument("--model", default="", help="artifact with the same weights (default: the embedded model)")
    parser.add_argument("--pools", type=Path, nargs="*", default=[GATE_POOLS, *([DL19] if DL19.exists() else [])])
    parser.add_argument("--candidates", type=int, nargs="+", default=[30])
    parser.add_argument("--queries", type=int, default=20, help="pools taken from each file (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    models = {"artifact": arguments.model, "checkpoint": arguments.checkpoint}
    report = {"machine": machine(), "threads": arguments.threads, "repeats": arguments.repeats, "cases": []}
    for path in arguments.pools:
        for size in arguments.candidates:
            pools = pools_of_size(list(read_pools(path)), size, arguments.queries)
            case = {"pools": path.name, "queries": len(pools), "candidates": size}
            case |= compare([RESIFT, PYTORCH], models, pools, threads=arguments.threads, repeats=arguments.repeats)
            report["cases"].append(case)
            print(table(case), flush=True)
    print(json.dumps({**report["machine"], "threads": arguments.threads, **report["cases"][-1]["versions"]}))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "compare.json").write_text(json.dumps(report, indent=1))
    plot(report, arguments.out / "compare.png")


def pools_of_size(pools: list[CandidatePool], size: int, queries: int) -> list[CandidatePool]:
    """The first `queries` pools with `size` candidates each: the pool's own first, then those of other pools with the label 0."""
    chosen = []
    for number, pool in enumerate(pools[:queries]):
        others = pools[number + 1 :] + pools[:number]
        texts = pool.documents + [text for other in others for text in other.documents]
        labels = [fields.get("label", 0) for fields in pool.fields] + [0] * len(texts)
        chosen.append(CandidatePool(pool.query, texts[:size], pool.qid, [{"label": label} for label in labels[:size]]))
    return chosen


def table(case: dict) -> str:
    heads = ("p50 ms", "p95 ms", "faster"), ("overlap", "nDCG@10", "start s", "peak MB")
    lines = [
        f"\n{case['pools']}: {case['queries']} queries x {case['candidates']} candidates",
        f"{'':22} {heads[0][0]:>8} {heads[0][1]:>8} {heads[0][2]:>7} {'quartiles':>13} "
        + " ".join(f"{head:>8}" for head in heads[1]),
    ]
    for row in case["rows"]:
        quality = f"{row['nDCG@10']:.4f}" if row["nDCG@10"] is not None else "-"
        low, high = row["quartiles"]
        lines.append(
            f"{row['system']:22} {row['p50_ms']:8.0f} {row['p95_ms']:8.0f} {row['times_faster']:6.2f}x {low:6.2f}-{high:5.2f}x"
            f" {row['overlap@10']:8.3f} {quality:>8} {row['cold_start_s']:8.2f} {row['peak_mb']:8.0f}"
        )
    return "\n".join(lines)


def plot(report: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.8 * len(report["cases"])), layout="constrained")
    axes = figure.subplots()
    names = [f"{case['pools'].split('.')[0]}\n{case['candidates']} candidates" for case in report["cases"]]
    systems = [row["system"] for row in report["cases"][0]["rows"]]
    for position, system in enumerate(systems):
        values = [next(row["p50_ms"] for row in case["rows"] if row["system"] == system) for case in report["cases"]]
        bars = axes.barh([index + 0.35 * position for index in range(len(names))], values, height=0.33, label=system)
        axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_yticks([index + 0.175 for index in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel(f"median ms per pool, {report['threads']} threads, {report['machine']['processor']}")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
