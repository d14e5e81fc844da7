"""Checks an artifact on a GPU, and times it against sentence-transformers and onnxruntime's O4 graph.

python -m benchmarks cuda --prepare MATERIAL --checkpoint FOLDER [--further FILE ...]   anywhere, with the extra `export`
python -m benchmarks cuda --material MATERIAL [--out FOLDER] [--seconds 480]            on a machine with a GPU, offline
python -m benchmarks cuda --material MATERIAL --work FOLDER --join                      only puts files together, such as wheels
python -m benchmarks cuda --dry-run                                                     every line, on the CPU, at tiny sizes

The material is files of at most 60 MB. Further files can be labelled pools (*.jsonl.gz, on which nDCG@10 is measured) or wheels.
The measurement needs onnxruntime-gpu, PyTorch with CUDA and transformers; sentence-transformers is timed if it is there, and a
rival that fails is left out. Prints tables and, at the end, whether the claims hold; OUT/cuda.json is written anew with every
figure. Compare ratios, and only within one run. Exit code 3 if the artifact does not keep its certificate's bounds there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import random_checkpoints
from benchmarks.cuda import figures, material
from benchmarks.cuda.claims import claims
from benchmarks.cuda.contenders import QUERY, Optimized, Resift, SentenceTransformers, opened
from benchmarks.material import GATE_POOLS, TOKENS
from resift.metrics import kendall_tau
from resift.runtime.providers import versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.cuda.contenders import Timed

SHARE_OF_QUALITY = 0.3
"""Of the time that is left after the check of the certificate, the share that labelled pools may take."""
SHARE_OF_CELLS = 0.9
"""Of the time that is left then, the share that timing may take."""


class Sizes(NamedTuple):
    """What is measured."""

    candidates: tuple[int, ...] = (50, 20, 30, 100, 1000)
    """those of the claims first"""
    tokens: tuple[int, ...] = TOKENS
    mixed: int = 256
    """tokens of the longest pair in pools whose pairs differ"""
    matrix: int = 8192

    def cells(self) -> list[dict[str, Any]]:
        """The pools to time: tokens of a pair, whether they differ, and candidates."""
        kinds = [*((tokens, False) for tokens in self.tokens), (self.mixed, True)]
        return [
            {"tokens": tokens, "mixed": is_mixed, "candidates": count} for count in self.candidates for tokens, is_mixed in kinds
        ]


TINY = Sizes(candidates=(3, 5), tokens=(20, 40), mixed=60, matrix=64)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepare", type=Path, metavar="MATERIAL", help="folder to write")
    parser.add_argument("--checkpoint", type=Path, help="folder with model.safetensors, for --prepare")
    parser.add_argument("--further", type=Path, nargs="+", default=[], help="files to add, for --prepare")
    parser.add_argument("--material", type=Path, help="folder that --prepare wrote")
    parser.add_argument("--work", type=Path, help="folder for the joined files (default: a temporary one)")
    parser.add_argument("--join", action="store_true", help="put the files of --material together in --work, and end")
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
    if options.join:
        if options.material is None or options.work is None:
            parser.error("--join needs --material FOLDER and --work FOLDER")
        material.join(options.material, options.work)
        return 0
    if options.material is None and not options.dry_run:
        parser.error("expected --prepare, --material or --dry-run")
    options.out.mkdir(parents=True, exist_ok=True)
    record = Record(options.out / "cuda.json")
    with tempfile.TemporaryDirectory() as scratch:
        source = options.material or _tiny_material(Path(scratch))
        clock = figures.Clock(options.seconds)
        work = material.read(source, options.work or Path(scratch) / "work")
        measure(work, clock, TINY if options.dry_run else Sizes(), record, is_dry=options.dry_run)
    return 3 if record.found["agreement"]["fault"] else 0


class Record:
    """The figures so far, in a file that holds them at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, Any] = {}

    def add(self, **figures: Any) -> None:
        """Adds figures, or replaces those of the same name."""
        self.found |= figures
        self._path.write_text(json.dumps(self.found, indent=1))

    def show(self, **figures: Any) -> None:
        """Adds figures, and prints them."""
        self.add(**figures)
        print(json.dumps(figures, indent=1), flush=True)


def measure(work: Path, clock: figures.Clock, sizes: Sizes, record: Record, *, is_dry: bool) -> None:
    """All figures, as far as there is time; each is printed and written as soon as it is known."""
    device = "cpu" if is_dry else "cuda"
    record.show(machine=machine(device))
    resift = Resift(work, is_dry=is_dry)
    record.show(is_packed=resift.reranker.is_packed, nodes=resift.reranker.nodes)
    record.show(agreement=figures.agreement(resift.reranker, work / "artifact"))
    rates = figures.Rates.measure(device, sizes.matrix)
    record.add(rates=rates._asdict())
    print(f"measured: {rates.operations / 1e12:.3g} TFLOP/s in float16, {rates.bytes / 1e9:.4g} GB/s", flush=True)
    left_out: dict[str, str] = {}
    rivals: dict[str, Callable[[], Timed]] = {
        "resift float16, with padding": lambda: Resift(work, is_dry=is_dry, packs=False),
        "PyTorch float16": lambda: SentenceTransformers(work, "float16", device),
        "PyTorch bfloat16": lambda: SentenceTransformers(work, "bfloat16", device),
        "onnxruntime O4": lambda: Optimized(work, is_dry=is_dry),
    }
    contenders = [resift, *opened(rivals, left_out)]
    pools = sorted(work.glob("*.jsonl.gz"))
    if pools:
        exact = opened({"PyTorch float32": lambda: SentenceTransformers(work, "float32", device)}, left_out)
        seconds = SHARE_OF_QUALITY * clock.remaining() / len(pools)
        record.show(ndcg={path.name: figures.quality([*contenders, *exact], path, seconds) for path in pools})
        del exact
    record.add(left_out=left_out)
    cells = sizes.cells()
    record.add(cells=cells)
    for number, cell in enumerate(cells):
        seconds = SHARE_OF_CELLS * clock.remaining() / (len(cells) - number)
        cell.update(time_cell(contenders, cell, seconds, work, rates))
        record.add(cells=cells)
        print(table(cell), flush=True)
    record.show(claims=claims(record.found))
    for contender in contenders:
        if isinstance(contender, Resift):
            contender.reranker.close()


def time_cell(contenders: list[Any], cell: dict[str, Any], seconds: float, work: Path, rates: figures.Rates) -> dict[str, Any]:
    """The figures of one pool; none if there is no time for it. The first contender is resift."""
    resift = contenders[0]
    documents = figures.pool_of(resift.reranker, figures.lengths_of(cell["tokens"], cell["candidates"], is_mixed=cell["mixed"]))
    measured = figures.times(contenders, documents, seconds) if seconds > 0 else {}
    if not measured:
        return {}
    resift.batches.clear()
    scores = [contender.score(QUERY, documents) for contender in contenders]
    rows = [figures.row(contender.name, measured, resift.name) for contender in contenders]
    for row, found_scores in zip(rows, scores, strict=True):
        row["tau"] = kendall_tau(scores[0], found_scores)
    return {**figures.shares(resift, work, rates), "rows": rows}


def table(cell: dict[str, Any]) -> str:
    """The lines of one cell."""
    title = f"\n{cell['candidates']} candidates of {'up to ' if cell['mixed'] else ''}{cell['tokens']} tokens"
    if "rows" not in cell:
        return f"{title}: no time was left"
    device = f"{cell['batches']} batches, {cell['padding']:.0%} padding, {cell['device_ms']:.2f} ms on the device"
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
    """The material of a small BERT with random weights, with three labelled pools."""
    config = {"vocab_size": 13000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config["max_position_embeddings"] = longest = 192
    kind = random_checkpoints.Kind("Bert", config, "WordPiece", random_checkpoints.BERT_PAIR, longest)
    random_checkpoints.KINDS["tiny"] = kind
    checkpoint = random_checkpoints.save("tiny", scratch / "checkpoint")
    labelled = scratch / "labelled.jsonl.gz"
    labelled.write_bytes(gzip.compress(b"\n".join(GATE_POOLS.read_bytes().splitlines()[:3])))
    material.write(checkpoint, scratch / "material", [labelled])
    return scratch / "material"


if __name__ == "__main__":
    raise SystemExit(main())
