"""Measures what frozen layers save and what they cost: an artifact's int8 graph with its last M layers frozen, for several M.

    pip install '.[export]'
    python -m benchmarks freeze ARTIFACT CHECKPOINT [--layers 2 3 ...] [--whole-up-to 32] [--pools FILE ...] [--out FOLDER]

ARTIFACT has an int8 graph of CHECKPOINT. Its full graph is M = 0; M = 1 is the same, as in the last layer no graph updates more
than the first token. The graphs are fitted as `resift export --freeze M` fits them, and written to FOLDER/artifact, whose plans
name them m2, m3, ...; those that are there already are measured again. `python -m benchmarks graph_profile FOLDER/artifact` times
their batches by length.

FILEs are candidate pools, labelled or not (default: those of the shared material if it is next to the repository). "tau" and
"top 10" are means over the pools, against the checkpoint in float32; "less" is nDCG@10 minus that of the full graph, where there
are labels, with the 95 % interval from bootstrapping the pools. A second table has tau by length class, over the pools that have
five documents of that class, and how much lower it is than the full graph's, with its interval.

Times are measured last, by --times N pools of the first FILE: every graph ranks one pool after the other, in an order that rotates.
"times faster" is the median over the pools, with the quartiles.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from benchmarks.machine_facts import machine_facts
from benchmarks.material import LABELLED, SHARED
from resift import InputError, Reranker, Settings
from resift.artifact.coverage import LEAST_RANKED, class_bounds
from resift.artifact.folder import Artifact
from resift.artifact.manifest import EXTENDED_FORMAT, MANIFEST
from resift.evaluate.data.dataset import read_dataset
from resift.evaluate.significance import bootstrap_interval
from resift.metrics import kendall_tau, ndcg, top_overlap
from resift.pools.source import read_pools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from resift.artifact.manifest import Manifest
    from resift.artifact.variant import Variant
    from resift_export.build.freeze import Freezer
    from resift_export.checkpoint.load import Checkpoint

FULL = "full"
FILES = [*LABELLED.values(), SHARED / "data" / "train" / "mined_msmarco_dev_top30.jsonl.gz"]


class LabelledPool(NamedTuple):
    """A candidate pool of a file."""

    query: str
    documents: list[str]
    labels: list[int] | None
    """of each document; None if the file has none"""


class GraphLogits(NamedTuple):
    """The logits of the pools of one file by one graph, or by the checkpoint."""

    logits: list[NDArray[np.float32]]
    tokens: list[NDArray[np.int32]]
    """of each pair"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks freeze", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact")
    parser.add_argument("checkpoint")
    parser.add_argument("--layers", type=int, nargs="+", default=[*range(2, 9)], metavar="M", help="(default: 2 to 8)")
    parser.add_argument("--whole-up-to", type=int, default=32, metavar="TOKENS", help="of the longest pair that is updated whole")
    parser.add_argument("--pools", type=Path, nargs="+", default=FILES)
    parser.add_argument("--queries", type=int, default=40, help="of each FILE (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=50, help="of each pool (default: %(default)s)")
    parser.add_argument("--times", type=int, default=0, metavar="N", help="pools that are timed (default: none)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 50], help="candidates of the timed pools (default: 20 50)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("frozen"))
    arguments = parser.parse_args()
    from resift_export.checkpoint.load import load

    checkpoint = load(arguments.checkpoint)
    artifact = with_frozen(Artifact.find(arguments.artifact), checkpoint, arguments.layers, arguments.whole_up_to, arguments.out)
    pools = {file.name: read(file, arguments.queries, arguments.candidates) for file in arguments.pools}
    report: dict[str, Any] = {"machine": machine_facts(), "whole_up_to": arguments.whole_up_to}
    names = [FULL, *(f"m{layers}" for layers in arguments.layers)]
    with Reranker(artifact, settings=Settings(threads=arguments.threads, precision="int8", provider="cpu")) as reranker:
        exact = {name: checkpoint.references([(pool.query, pool.documents) for pool in each]) for name, each in pools.items()}
        checkpoint.release()
        found = {name: {graph: scored(reranker, each, graph) for graph in names} for name, each in pools.items()}
        report["files"] = [row for name in pools for row in rows_of(name, pools[name], exact[name], found[name])]
        report["classes"] = by_class(exact, found, class_bounds(artifact.manifest.pair.max_length))
        print(table(report["files"]), table(report["classes"]), sep="\n\n", flush=True)
        if arguments.times:
            first = next(iter(pools.values()))
            report["times"] = [row for size in arguments.sizes for row in times(reranker, first[: arguments.times], names, size)]
            print(f"\n{table(report['times'])}")
    (arguments.out / "freeze.json").write_text(json.dumps(report, indent=1) + "\n")


def with_frozen(artifact: Artifact, checkpoint: Checkpoint, numbers: Sequence[int], whole_up_to: int, out: Path) -> Artifact:
    """A copy of the artifact in `out`, with a graph for each of the `numbers` of frozen layers."""
    from resift_export.build.graph_files import MIN_SHARED_PART, write_graph

    folder = out / "artifact"
    if not folder.exists():
        shutil.copytree(artifact.folder, folder)
    manifest = Artifact.open(folder).manifest
    [variant, *_] = [each for each in manifest.full.variants if each.precision == "int8"]
    freezer: Freezer | None = None
    for layers in numbers:
        name, file = f"m{layers}", f"m{layers}.int8.onnx"
        if all(graph.name != name for graph in manifest.graphs):
            freezer = freezer or _freezer(artifact, variant, checkpoint, out / "scratch")
            models = freezer.freeze(layers)
            written = write_graph(folder / file, models.models[variant.file], variant.file, min_shared=MIN_SHARED_PART)
            graph = msgspec.structs.replace(
                manifest.full,
                name=name,
                role="first-look",
                operations=models.operations,
                signature=manifest.full.signature.frozen(),
                frozen=models.how,
                variants=[msgspec.structs.replace(variant, file=file, weights=written.weights, short=None)],
            )
            print(f"# {name}: {models.operations / manifest.full.operations:.3f} of the full graph's operations", flush=True)
            manifest = _replaced(manifest, folder, graphs=[*manifest.graphs, graph], files=manifest.files | written.files)
    frozen = [(graph, graph.frozen) for graph in manifest.graphs if graph.frozen is not None]
    graphs = [graph for graph in manifest.graphs if graph.frozen is None]
    for graph, how in frozen:
        graphs.append(msgspec.structs.replace(graph, frozen=msgspec.structs.replace(how, whole_up_to=whole_up_to)))
    _replaced(manifest, folder, graphs=graphs)
    return Artifact.open(folder)


def _replaced(manifest: Manifest, folder: Path, **fields: object) -> Manifest:
    """The manifest with other fields, written to the folder."""
    changed = msgspec.structs.replace(manifest, format=EXTENDED_FORMAT, **fields)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(changed))
    return changed


def _freezer(artifact: Artifact, variant: Variant, checkpoint: Checkpoint, scratch: Path) -> Freezer:
    """That of the full graph's `variant` alone."""
    from resift_export.build.draft import levels_of
    from resift_export.build.fitting_rows import fitting_rows
    from resift_export.build.freeze import Freezer, frozen_layers
    from resift_export.build.reuse import models_of
    from resift_export.progress import no_report
    from resift_export.recipe import FEWEST_FROZEN, Recipe

    shutil.rmtree(scratch, ignore_errors=True)
    graph = msgspec.structs.replace(artifact.manifest.full, variants=[variant])
    models, levels = models_of(artifact, graph, scratch), levels_of(Recipe(vnni=bool(variant.instruction_sets)))
    rows = fitting_rows(checkpoint, Recipe().calibration_pairs(), frozen_layers(FEWEST_FROZEN))
    print(f"# fitted by {len(rows)} pairs of {sum(row.feed['input_ids'].size for row in rows)} tokens", flush=True)
    return Freezer(models, levels, rows, checkpoint.id, scratch, no_report)


def read(file: Path, queries: int, candidates: int) -> list[LabelledPool]:
    """The first pools of a file, each with its first candidates."""
    try:
        dataset = read_dataset(file, limit=queries, depth=candidates)
    except InputError:  # there are no labels
        pools = [pool.first(candidates) for pool, _ in zip(read_pools(file), range(queries), strict=False)]
        return [LabelledPool(pool.query, pool.documents, None) for pool in pools]
    return [LabelledPool(pool.query, pool.documents, dataset.labels(pool)) for pool in dataset.pools]


def scored(reranker: Reranker, pools: Sequence[LabelledPool], graph: str) -> GraphLogits:
    """The pools scored by the graph alone."""
    futures = [reranker.submit(pool.query, pool.documents, plan=graph) for pool in pools]
    found = [future.result() for future in futures]
    return GraphLogits([each.logits for each in found], [each.lengths for each in found])


def rows_of(
    file: str, pools: Sequence[LabelledPool], exact: Sequence[NDArray[np.float32]], found: Mapping[str, GraphLogits]
) -> list[dict[str, object]]:
    """A row of the first table for each graph."""
    rows = []
    is_labelled = all(pool.labels is not None for pool in pools)
    full = _ndcg(pools, found[FULL].logits) if is_labelled else None
    for graph, each in found.items():
        row: dict[str, object] = {"file": file, "graph": graph}
        for name, metric in (("tau", kendall_tau), ("top 10", top_overlap)):
            row[name] = float(np.mean([metric(one, other) for one, other in zip(exact, each.logits, strict=True)]))
        if full is not None:
            values = _ndcg(pools, each.logits)
            low, high = bootstrap_interval((values - full)[:, None])[:, 0].tolist()
            row |= {"nDCG@10": float(values.mean()), "less": float((values - full).mean()), "from": low, "to": high}
        rows.append(row)
    return rows


def _ndcg(pools: Sequence[LabelledPool], logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.array([ndcg(pool.labels or [], each) for pool, each in zip(pools, logits, strict=True)])


def by_class(
    exact: Mapping[str, Sequence[NDArray[np.float32]]], found: Mapping[str, Mapping[str, GraphLogits]], ends: Sequence[int]
) -> list[dict[str, object]]:
    """A row of the second table for each length class and graph, over the pools of all files."""
    rows, low = [], 0
    for end in ends:
        taus: dict[str, list[float]] = {}
        for file, graphs in found.items():
            for graph, each in graphs.items():
                for one, other, tokens in zip(exact[file], each.logits, each.tokens, strict=True):
                    here = (low < tokens) & (tokens <= end)
                    if here.sum() >= LEAST_RANKED:
                        taus.setdefault(graph, []).append(kendall_tau(one[here], other[here]))
        for graph, of_pools in taus.items():
            lower = np.subtract(taus[FULL], of_pools)
            interval = bootstrap_interval(lower[:, None])[:, 0].tolist()
            row = {
                "up to": end,
                "graph": graph,
                "pools": len(of_pools),
                "tau": float(np.mean(of_pools)),
                "lower": float(lower.mean()),
            }
            rows.append(row | {"from": interval[0], "to": interval[1]})
        low = end
    return rows


def times(
    reranker: Reranker,
    pools: Sequence[LabelledPool],
    graphs: Sequence[str],
    size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, object]]:
    """A row of the third table for each graph: milliseconds of a pool of `size` candidates."""
    pools = [pool for pool in pools if len(pool.documents) >= size]
    seconds: dict[str, list[float]] = {graph: [] for graph in graphs}
    for graph in graphs:
        reranker.submit(pools[0].query, pools[0].documents[:size], plan=graph).result()
    for number, pool in enumerate(pools):
        for turn in range(len(graphs)):
            graph = graphs[(turn + number) % len(graphs)]
            began = clock()
            reranker.submit(pool.query, pool.documents[:size], plan=graph).result()
            seconds[graph].append(clock() - began)
    rows = []
    for graph, each in seconds.items():
        low, faster, high = np.percentile(np.array(seconds[FULL]) / each, (25, 50, 75)).tolist()
        row = {"candidates": size, "graph": graph, "pools": len(each), "p50 ms": 1000 * float(np.median(each))}
        rows.append(row | {"times faster": faster, "from": low, "to": high})
    return rows


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows in Markdown."""
    heads = list(dict.fromkeys(head for row in rows for head in row))
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        values = [row.get(head, "-") for head in heads]
        lines.append([f"{value:.4f}" if isinstance(value, float) else str(value) for value in values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
