"""Checks an artifact on a GPU, and times it against sentence-transformers and onnxruntime's O4 graph.

python -m benchmarks cuda --prepare MATERIAL --checkpoint FOLDER [--further FILE ...]   anywhere, with the extra `export`
python -m benchmarks cuda --material MATERIAL [--out FOLDER] [--seconds 480]            on a machine with a GPU, offline
python -m benchmarks cuda --dry-run                                                     every line, on the CPU, at tiny sizes

The material is files of at most 60 MB. Further files can be labelled pools (*.jsonl.gz, on which nDCG@10 is measured) or wheels.
The measurement needs onnxruntime-gpu, PyTorch with CUDA and transformers; sentence-transformers is timed if it is there. Prints
tables and writes OUT/cuda.json. Compare ratios, and only within one run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import random_checkpoints
from benchmarks.cuda import figures, material
from benchmarks.cuda.contenders import Optimized, Resift, SentenceTransformers
from resift.metrics import kendall_tau
from resift.runtime.providers import versions

SHARE_OF_CELLS = 0.9
"""Of the time that is left after the checks, the share that timing may take."""


class Sizes(NamedTuple):
    """What is measured."""

    candidates: tuple[int, ...] = (20, 30, 50, 100, 1000)
    tokens: tuple[int, ...] = (95, 256, 512)
    matrix: int = 8192
    pools: int = 1000


TINY = Sizes(candidates=(3, 5), tokens=(20, 40), matrix=64, pools=2)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepare", type=Path, metavar="MATERIAL", help="folder to write")
    parser.add_argument("--checkpoint", type=Path, help="folder with model.safetensors, for --prepare")
    parser.add_argument("--further", type=Path, nargs="+", default=[], help="files to add, for --prepare")
    parser.add_argument("--material", type=Path, help="folder that --prepare wrote")
    parser.add_argument("--work", type=Path, help="folder for the joined files (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for cuda.json (default: here)")
    parser.add_argument("--seconds", type=float, default=480.0, help="time that the measurement may take (default: %(default)s)")
    parser.add_argument(
        "--dry-run", action="store_true", help="on the CPU, at tiny sizes, with a random checkpoint unless --material"
    )
    options = parser.parse_args(arguments)
    if options.prepare is not None:
        if options.checkpoint is None:
            parser.error("--prepare needs --checkpoint FOLDER")
        material.write(options.checkpoint, options.prepare, options.further)
        return 0
    if options.material is None and not options.dry_run:
        parser.error("expected --prepare, --material or --dry-run")
    with tempfile.TemporaryDirectory() as scratch:
        source = options.material or _tiny_material(Path(scratch))
        work = material.read(source, options.work or Path(scratch) / "work")
        found = measure(work, figures.Clock(options.seconds), TINY if options.dry_run else Sizes(), is_dry=options.dry_run)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cuda.json").write_text(json.dumps(found, indent=1))
    return 3 if found["agreement"]["fault"] else 0


def measure(work: Path, clock: figures.Clock, sizes: Sizes, *, is_dry: bool) -> dict[str, Any]:
    """All figures, as far as there is time; each is printed as soon as it is known."""
    device = "cpu" if is_dry else "cuda"
    found: dict[str, Any] = {"machine": machine(device)}
    print(json.dumps(found["machine"]), flush=True)
    resift = Resift(work, is_dry=is_dry)
    found["nodes"] = resift.reranker.nodes
    found["agreement"] = figures.agreement(resift.reranker, work / "artifact")
    print(json.dumps({"nodes": found["nodes"], **found["agreement"]}, indent=1), flush=True)
    rates = figures.Rates.measure(device, sizes.matrix)
    found["rates"] = rates._asdict()
    print(f"measured: {rates.operations / 1e12:.3g} TFLOP/s in float16, {rates.bytes / 1e9:.4g} GB/s", flush=True)
    contenders: list[figures.Timed] = [
        resift,
        SentenceTransformers(work, "float16", device),
        SentenceTransformers(work, "bfloat16", device),
        Optimized(work, is_dry=is_dry),
    ]
    found["ndcg"] = {}
    for path in work.glob("*.jsonl.gz"):
        exact = SentenceTransformers(work, "float32", device)
        found["ndcg"][path.name] = figures.quality([*contenders, exact], path, sizes.pools)
        print(json.dumps({"nDCG@10": found["ndcg"]}), flush=True)
    found["cells"] = []
    cells = [(tokens, count) for tokens in sizes.tokens for count in sizes.candidates]
    for number, (tokens, count) in enumerate(cells):
        documents = figures.pool_of(resift.reranker, tokens, count)
        seconds = SHARE_OF_CELLS * clock.remaining() / (len(cells) - number)
        measured = figures.times(contenders, documents, seconds) if seconds > 0 else {}
        cell: dict[str, Any] = {"tokens": tokens, "candidates": count}
        if measured:
            resift.batches.clear()
            resift.score(figures.QUERY, documents)
            cell |= figures.shares(resift, work, rates)
            cell["rows"] = [figures.row(contender.name, measured, resift.name) for contender in contenders]
            scores = [contender.score(figures.QUERY, documents) for contender in contenders]
            for row, found_scores in zip(cell["rows"], scores, strict=True):
                row["tau"] = kendall_tau(scores[0], found_scores)
        found["cells"].append(cell)
        print(table(cell), flush=True)
    resift.reranker.close()
    return found


def table(cell: dict[str, Any]) -> str:
    """The lines of one cell."""
    title = f"\n{cell['candidates']} candidates of {cell['tokens']} tokens"
    if "rows" not in cell:
        return f"{title}: no time was left"
    device = f"{cell['batches']} batches, {cell['device_ms']:.2f} ms of them on the device"
    rates = f"{cell['share_of_operations']:.1%} of the float16 rate, at least {cell['share_of_bytes']:.1%} of the bandwidth"
    lines = [f"{title}: {device}, {rates}"]
    for row in cell["rows"]:
        low, high = row["quartiles"]
        lines.append(
            f"  {row['system']:34} {row['p50_ms']:9.2f} ms {row['times_slower']:7.2f} times resift's [{low:.2f}, {high:.2f}], "
            f"tau {row['tau']:.3f} with its ranking"
        )
    return "\n".join(lines)


def machine(device: str) -> dict[str, Any]:
    """The device, and the versions of what runs on it."""
    import torch

    facts: dict[str, Any] = {"device": "cpu"}
    if device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit(f"torch {torch.__version__} finds no GPU; --dry-run goes through every line on the CPU")
        facts = {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        facts["memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
    return facts | versions("resift", "onnxruntime", "torch", "transformers", "tokenizers", "numpy")


def _tiny_material(scratch: Path) -> Path:
    """The material of a small BERT with random weights."""
    config = {"vocab_size": 13000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config["max_position_embeddings"] = longest = 192
    kind = random_checkpoints.Kind("Bert", config, "WordPiece", random_checkpoints.BERT_PAIR, longest)
    random_checkpoints.KINDS["tiny"] = kind
    checkpoint = random_checkpoints.save("tiny", scratch / "checkpoint")
    material.write(checkpoint, scratch / "material", [])
    return scratch / "material"


if __name__ == "__main__":
    raise SystemExit(main())
