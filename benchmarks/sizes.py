"""Exports checkpoints of real sizes with random weights and compares them with PyTorch: time, memory and speed.

    pip install -e '.[export]' 'sentence-transformers>=6'
    python -m benchmarks sizes [NAME ...] [--work FOLDER] [--rounds N] [--precision LIST] [--long N]

NAMEs are those of random_checkpoints.py (default: all). Each checkpoint is written once to FOLDER. `resift export` runs in its own
process, whose time and peak memory are measured; "times_weights" is that peak divided by the size of the float32 weights. Memory
mapped from files counts. The export uses --force, as random weights may rank too evenly for the gate; "gate" holds its figures, and
"generated_share" is the share of its time that generated pairs took.

Then another process loads the artifact ("seconds"; "loaded_mb": memory after loading; "peak_mb": while loading). After that, resift
and sentence-transformers score pairs of 95 and of 512 tokens in turn, each in its own process with all cores: "pairs_s" is the
median of the rounds, "times_faster" the median, the smallest and the largest ratio. Prints a row for each checkpoint as soon as
it is measured, and writes FOLDER/sizes.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import random_checkpoints
from benchmarks.compare.catalogue import PYTORCH, RESIFT
from benchmarks.compare.running import ContenderProcess
from benchmarks.material import TOKENS, gate_pools, words_in
from resift import Reranker, machine

LENGTHS = {TOKENS[0]: 16, TOKENS[-1]: 4}
"""Number of pairs in a round, by the number of tokens in a pair."""
MB = 1 << 20
EXPORT = "from resift.cli.main import main; import sys; sys.exit(main())"
MEMORY = """
def megabytes(name):  # of this process only: ru_maxrss may be that of its parent
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith(name))
"""
LOAD = f"""
import json, sys, time
from resift import Reranker
{MEMORY}
before, start = megabytes("VmRSS"), time.perf_counter()
Reranker.load(sys.argv[1])
seconds = time.perf_counter() - start
found = {{"seconds": seconds, "before_mb": before, "loaded_mb": megabytes("VmRSS"), "peak_mb": megabytes("VmHWM")}}
print(json.dumps(found))
"""
LONG = f"""
import json, sys, time
from resift import Reranker
{MEMORY}
reranker, count, query = Reranker.load(sys.argv[1]), int(sys.argv[2]), "how do tides work"
longest = reranker.artifact.manifest.pair.max_length
documents = [f"{{number}} " + "tides follow the moon " * longest for number in range(count)]
found = {{"tokens": int(reranker.tokenizer.encode(query, documents[:1]).lengths[0])}}
for name, pool in (("one", documents[:1]), ("pool", documents)):
    start = time.perf_counter()
    reranker.logits(query, pool)
    found |= {{f"{{name}}_seconds": time.perf_counter() - start, f"{{name}}_peak_mb": megabytes("VmHWM")}}
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sizes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(random_checkpoints.KINDS)}")
    parser.add_argument("--work", type=Path, default=Path(".bench") / "sizes", help="folder to work in (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="times each contender scores the pairs (default: %(default)s)")
    parser.add_argument("--precision", default="int8", help="as of `resift export` (default: %(default)s)")
    parser.add_argument(
        "--long", type=int, default=0, metavar="N", help="also score one pair, and N, of the model's longest length"
    )
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    print(f"# {machine.usable_cores()} cores, {', '.join(sorted(machine.instruction_sets())) or 'AVX2 or less'}", flush=True)
    rows = []
    for name in arguments.names or random_checkpoints.KINDS:
        rows.append(measure(name, arguments.work, rounds=arguments.rounds, precision=arguments.precision, long=arguments.long))
        print(json.dumps(rows[-1]), flush=True)
        (arguments.work / "sizes.json").write_text(json.dumps(rows, indent=1))


def measure(name: str, work: Path, *, rounds: int, precision: str, long: int) -> dict[str, Any]:
    """All figures of one checkpoint."""
    checkpoint = random_checkpoints.save(name, work / "checkpoints" / name)
    artifact = work / "artifacts" / name
    weights = sum(path.stat().st_size for path in checkpoint.rglob("*.safetensors"))
    seconds, peak, generated = export(checkpoint, artifact, precision)
    found = next(iter(json.loads((artifact / "certificate.json").read_text())["agreement"].values()))
    loaded = json.loads(child(LOAD, artifact))
    size = sum(path.stat().st_size for path in artifact.iterdir())
    longest = json.loads(child(LONG, artifact, str(long))) if long else {}
    row = {
        "checkpoint": name,
        "weights_mb": round(weights / MB),
        "export_minutes": round(seconds / 60, 1),
        "generated_share": generated,
        "export_peak_mb": round(peak / MB),
        "times_weights": round(peak / weights, 2),
        "gate": {key: round(found[key], 4) for key in ("overlap", "tau", "worst_tau", "error")},
        "artifact_mb": round(size / MB),
        **{key: round(value, 2) for key, value in loaded.items()},
        **{f"longest_{key}": round(value, 2) for key, value in longest.items()},
    }
    return row | speed(checkpoint, artifact, rounds)


def child(code: str, *arguments: str | Path) -> str:
    """Runs the code in a new process and returns its output."""
    return subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


def export(checkpoint: Path, artifact: Path, precision: str) -> tuple[float, int, float]:
    """Exports in a new process; returns its seconds, its peak memory in bytes and the share of time that generated pairs took."""
    command = [sys.executable, "-c", EXPORT, "export", str(checkpoint), str(artifact), "--force", "--overwrite"]
    artifact.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--precision", precision], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    took = ""
    for line in process.stderr:
        sys.stderr.write(line)
        took = line if line.startswith("took ") else took
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"the export of {checkpoint} failed, see above")
    generated = re.search(r"generated pairs [\d.]+ \(([\d.]+)%\)", took)
    return time.perf_counter() - start, usage.ru_maxrss * 1024, round(float(generated[1]) / 100, 3) if generated else 0.0


def speed(checkpoint: Path, artifact: Path, rounds: int) -> dict[str, Any]:
    """Pairs per second of both contenders, measured in turn on pairs of the same length."""
    here = [replace(item, environment=replace(item.environment, interpreter=sys.executable)) for item in (RESIFT, PYTORCH)]
    threads = machine.usable_cores()
    found: dict[str, Any] = {}
    processes = [ContenderProcess(item, str(artifact if item.takes == "artifact" else checkpoint), threads) for item in here]
    for tokens, pairs in LENGTHS.items():
        query, document = pair_of(artifact, tokens)
        seconds: list[list[float]] = [[], []]
        for turn in range(rounds + 1):  # the first warms up
            order = (0, 1) if turn % 2 else (1, 0)
            for at in order:
                taken = processes[at].rank([(query, [f"{document} {number}" for number in range(pairs)])])["seconds"]
                if turn:
                    seconds[at].append(taken)
        found[f"pairs_s_{tokens}"] = [round(pairs / statistics.median(each), 2) for each in seconds]
        ratios = sorted(slow / fast for fast, slow in zip(*seconds, strict=True))
        found[f"times_faster_{tokens}"] = [round(value, 2) for value in (statistics.median(ratios), ratios[0], ratios[-1])]
    for process in processes:
        process.close()
    return found


def pair_of(artifact: Path, tokens: int) -> tuple[str, str]:
    """A query and a document of words from the built-in pools, of about `tokens` tokens together."""
    pools = gate_pools()
    query = pools[0].query
    words = words_in(pools)
    with Reranker.load(artifact) as reranker:
        encoder = reranker.tokenizer
        low, high = 1, tokens
        while low < high:
            middle = (low + high + 1) // 2
            fits = encoder.encode(query, [" ".join(words[:middle])]).lengths[0] <= tokens - 3
            low, high = (middle, high) if fits else (low, middle - 1)
    return query, " ".join(words[:low])


if __name__ == "__main__":
    main()
