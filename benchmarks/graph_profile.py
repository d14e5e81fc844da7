"""Where the time of a batch goes, by kind of operation, beside what the machine could do at best.

    python -m benchmarks graph_profile [ARTIFACT] [--tokens 95,256,512] [--rows N] [--precision NAME] [--out FOLDER]

Runs each graph of the artifact (default: the embedded model) as the engine loads it, on one thread and with random token ids, under
onnxruntime's own profiler. A node's time is that of its fastest run, as of the peaks, so that what else runs on the machine counts
little. "of peak" compares the rate of a kind with peaks that are
measured in the same run: products and attention with the fastest product of their precision, the others with the rate at which a
core copies what its second cache holds. Prints a table for each graph and number of tokens, and writes FOLDER/profile.json.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.machine_facts import machine_facts
from benchmarks.material import TOKENS
from benchmarks.peaks import GIGA, Peaks
from resift import Settings
from resift.artifact.folder import Artifact
from resift.artifact.signature import MASK, UPDATED
from resift.runtime.providers import Policy, runtime
from resift.runtime.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from resift.artifact.manifest import Pair
    from resift.artifact.signature import Frozen

WARM_UP, RUNS = 2, 21
PRODUCT, ATTENTION, REST = "products", "attention", "rest"
KINDS = {
    PRODUCT: {"MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "MatMulNBits", "Gemm", "QGemm"},
    ATTENTION: {"MultiHeadAttention", "Attention", "QAttention", "Softmax"},
    "activation": {"Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf", "Tanh", "Relu", "Sigmoid"},
    "scaling and quantization": {"Mul", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"},
    "normalization": {"LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"},
    REST: set(),
}
"""The operators of each kind. MatMul is a product if its second input is a matrix, and a part of attention otherwise."""


@dataclass(frozen=True)
class ProfiledPolicy(Policy):
    """A policy whose sessions write a profile into a folder when they are closed."""

    folder: Path = Path()

    def options(self) -> Any:
        options = super().options()
        options.enable_profiling = True
        options.profile_file_prefix = str(self.folder / "profile")
        return options


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph at one shape."""

    op_type: str
    kind: str
    seconds: float
    """of the fastest run"""
    operations: int
    """additions and multiplications of a product; 0 for others"""
    is_int8: bool
    bytes: int
    """read and written, constants left out"""

    @classmethod
    def of(cls, events: Sequence[dict]) -> Node:
        """The node of these events of onnxruntime's profile, one a run."""
        facts = events[0]["args"]
        inputs, outputs = ([next(iter(each.items())) for each in facts[f"{side}_type_shape"]] for side in ("input", "output"))
        shapes = [shape for _, shape in inputs]
        kind = kind_of(facts["op_name"], shapes)
        return cls(
            facts["op_name"],
            kind,
            min(event["dur"] for event in events) / 1e6,
            operations_of(facts["op_name"], kind, shapes, outputs[0][1]),
            kind == PRODUCT and bool(inputs) and inputs[0][0] in {"uint8", "int8"},
            int(facts["activation_size"]) + int(facts["output_size"]),
        )


def kind_of(op_type: str, shapes: Sequence[Sequence[int]]) -> str:
    """The kind of a node by its operator and the shapes of its inputs, of which onnxruntime leaves out weights that it packed."""
    if op_type in {"MatMul", "FusedMatMul"}:
        return ATTENTION if len(shapes) > 1 and len(shapes[1]) > 2 else PRODUCT
    return next((kind for kind, op_types in KINDS.items() if op_type in op_types), REST)


def operations_of(op_type: str, kind: str, shapes: Sequence[Sequence[int]], output: Sequence[int]) -> int:
    """Additions and multiplications of a product, or of attention's products; 0 where they are not known."""
    if kind == PRODUCT or op_type == "MatMul":
        return 2 * math.prod(output) * shapes[0][-1]
    if op_type == "MultiHeadAttention" and len(shapes) > 2 and len(shapes[0]) == 3:
        return 4 * math.prod(shapes[0]) * shapes[1][-2]  # scores, and sums of the values: [b, width, d] x keys each
    return 0


@dataclass(frozen=True, slots=True)
class Profile:
    """One graph at one shape."""

    graph: str
    file: str
    rows: int
    tokens: int
    nodes: tuple[Node, ...]
    between: float
    """seconds of a run that are no node's"""

    @property
    def seconds(self) -> float:
        return self.between + sum(node.seconds for node in self.nodes)

    def kinds(self, peaks: Peaks) -> list[dict[str, Any]]:
        """A row for each kind: its time, its share, and its rate where there is a peak to compare it with."""
        rows = []
        for kind in KINDS:
            nodes = [node for node in self.nodes if node.kind == kind]
            seconds = sum(node.seconds for node in nodes) + (self.between if kind == REST else 0)
            row = {"kind": kind, "ms": 1e3 * seconds, "share": seconds / self.seconds}
            rows.append(row | (rate(nodes, peaks) if kind != REST else {}))
        return rows

    def operators(self) -> dict[str, float]:
        """Milliseconds by operator, most first."""
        found: dict[str, float] = defaultdict(float)
        for node in self.nodes:
            found[node.op_type] += 1e3 * node.seconds
        return dict(sorted(found.items(), key=lambda each: -each[1]))


def rate(nodes: Sequence[Node], peaks: Peaks) -> dict[str, Any]:
    """What the nodes do a second, and its share of the peak: their time at the peak divided by the time that they took."""
    seconds = sum(node.seconds for node in nodes)
    if not seconds:
        return {}
    operations = sum(node.operations for node in nodes)
    if operations:
        at_peak = sum(node.operations / (peaks.int8 if node.is_int8 else peaks.float32) for node in nodes)
        return {"rate": operations / seconds / GIGA, "unit": "GOP/s", "of_peak": at_peak / seconds}
    moved = sum(node.bytes for node in nodes)
    return {"rate": moved / seconds / GIGA, "unit": "GB/s", "of_peak": moved / peaks.cache / seconds}


def read_profile(events: Iterable[dict]) -> tuple[tuple[Node, ...], float]:
    """The nodes in the order that they ran in, and the seconds of a run between them, from the events of onnxruntime's profile."""
    events = sorted(events, key=lambda event: event["ts"])
    runs = [event for event in events if event["name"] == "model_run"][WARM_UP:]
    by_node: dict[str, list[dict]] = defaultdict(list)
    between = []
    for run in runs:
        own = [
            event
            for event in events
            if event["cat"] == "Node"
            and event["name"].endswith("_kernel_time")
            and run["ts"] <= event["ts"] <= run["ts"] + run["dur"]
        ]
        for event in own:
            by_node[event["args"]["node_index"]].append(event)
        between.append((run["dur"] - sum(event["dur"] for event in own)) / 1e6)
    return tuple(Node.of(each) for each in by_node.values()), max(0.0, min(between))


def profile(artifact: Artifact, settings: Settings, graph: str, *, tokens: int, rows: int | None = None) -> Profile:
    """The profile of a graph on a batch of `rows` pairs (None: as many as the engine takes) of `tokens` tokens."""
    sessions = Sessions(artifact, settings)
    rows = rows or max(1, sessions.policy.token_budget // tokens)
    frozen = next(each.frozen for each in artifact.manifest.graphs if each.name == graph)
    inputs = random_inputs(artifact.manifest.pair, frozen, rows, tokens)
    with tempfile.TemporaryDirectory() as folder:
        policy = {field.name: getattr(sessions.policy, field.name) for field in fields(sessions.policy)}
        sessions.policy = ProfiledPolicy(**policy, folder=Path(folder))
        for _ in range(WARM_UP + RUNS):
            sessions.run(graph, inputs)
        sessions.close()
        (written,) = Path(folder).glob("profile*.json")
        nodes, between = read_profile(json.loads(written.read_text()))
    return Profile(graph, sessions.variant(graph).of_width(tokens).file, rows, tokens, nodes, between)


def random_inputs(pair: Pair, frozen: Frozen | None, rows: int, tokens: int) -> dict[str, NDArray[np.int64]]:
    """int64[rows, tokens], and int64[1], the number of updated tokens; the first quarter of the tokens is the query's segment."""
    ids = np.random.default_rng(0).integers(pair.vocabulary // 2, pair.vocabulary, (rows, tokens))
    segments = np.zeros((rows, tokens), np.int64)
    segments[:, tokens // 4 :] = int(any(each.endswith(":1") for each in pair.template))
    updated = np.array([tokens], np.int32)
    updated = updated if frozen is None else frozen.updated_tokens(updated // 4, updated)
    return {"input_ids": ids, "token_type_ids": segments, MASK: np.ones_like(ids), UPDATED: updated.astype(np.int64)}


def table(found: Profile, peaks: Peaks) -> str:
    rows = found.kinds(peaks)
    lines = [
        f"\n{found.graph} ({found.file}): {found.rows} x {found.tokens} tokens, {1e3 * found.seconds:.1f} ms",
        f"{'kind':25} {'ms':>8} {'share':>7} {'rate':>11} {'of peak':>8}",
    ]
    for row in rows:
        reached = f"{row['rate']:5.0f} {row['unit']:5} {row['of_peak']:8.0%}" if "rate" in row else ""
        lines.append(f"{row['kind']:25} {row['ms']:8.2f} {row['share']:7.1%} {reached}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks graph_profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", nargs="?", help="default: the embedded model")
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)), metavar="LIST", help="of the pairs (default: %(default)s)")
    parser.add_argument("--rows", type=int, metavar="N", help="pairs of a batch (default: as many as the engine takes)")
    parser.add_argument("--precision", default="auto", choices=("auto", "int8", "float32"), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    artifact = Artifact.find(arguments.artifact)
    settings = Settings(provider="cpu", precision=arguments.precision)
    longest = artifact.manifest.pair.max_length
    widths = dict.fromkeys(min(int(width), longest) for width in arguments.tokens.split(","))
    peaks = Peaks.measure()
    print(f"# {peaks.in_words()}", flush=True)
    report: dict[str, Any] = {"machine": machine_facts(), "onnxruntime": runtime().__version__, "peaks": asdict(peaks)}
    report["batches"] = []
    for graph in artifact.manifest.graphs:
        for width in widths:
            found = profile(artifact, settings, graph.name, tokens=width, rows=arguments.rows)
            print(table(found, peaks), flush=True)
            batch = {"graph": found.graph, "file": found.file, "rows": found.rows, "tokens": width, "ms": 1e3 * found.seconds}
            report["batches"].append(batch | {"kinds": found.kinds(peaks), "operators": found.operators()})
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "profile.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
