"""Throughput, memory and resuming of `resift rerank --pools` on many small pools.

    python -m benchmarks.collection [--pools 20000] [--kills 2] [--model ARTIFACT]

Ranks a file once uninterrupted and once with kills by SIGKILL, and compares the outputs byte by byte.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from benchmarks.__main__ import OWN
from resift.pools.reading import read_pools

SEED = 3
WORDS = 12
"""Most words in a document: titles and snippets."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--model", default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "pools.jsonl"
        pairs = write_pools(source, asked.pools)
        command = [Path(sysconfig.get_path("scripts")) / "resift", "rerank", "--pools", source]
        command += ["--model", asked.model] if asked.model else []
        seconds, memory = uninterrupted([*command, "--out", folder / "whole.jsonl"])
        middle = max(memory[len(memory) // 4 : len(memory) // 2], default=0.0)
        rates = f"{asked.pools / seconds:.0f} pools/s, {pairs / seconds:.0f} pairs/s"
        print(f"{asked.pools} pools, {pairs} pairs in {seconds:.0f} s: {rates}")
        print(f"memory: at most {middle:.0f} MB in the second quarter, {max(memory[-len(memory) // 4 :]):.0f} MB in the last")
        killed([*command, "--out", folder / "killed.jsonl"], folder / "killed.jsonl.partial", asked.kills, seconds)
        same = (folder / "whole.jsonl").read_bytes() == (folder / "killed.jsonl").read_bytes()
        lines = len((folder / "killed.jsonl").read_bytes().splitlines())
        print(f"killed {asked.kills} times and resumed: {lines} lines, {'equal' if same else 'NOT EQUAL'} to the uninterrupted run")
        return int(not same or lines != asked.pools)


def write_pools(path: Path, count: int) -> int:
    choose = random.Random(SEED)
    pools = list(read_pools(OWN))
    words = " ".join(text for pool in pools for text in pool.documents).split()
    pairs = 0
    with path.open("w") as file:
        for number in range(count):
            size = choose.randint(2, 8)
            pairs += size
            documents = [" ".join(choose.choices(words, k=choose.randint(3, WORDS))) for _ in range(size)]
            file.write(json.dumps({"qid": number, "query": choose.choice(pools).query[:40], "documents": documents}) + "\n")
    return pairs


def uninterrupted(command: list) -> tuple[float, list[float]]:
    """Seconds, and samples of the resident megabytes."""
    start, memory = time.perf_counter(), []
    process = subprocess.Popen(command)
    while process.poll() is None:
        statm = Path(f"/proc/{process.pid}/statm")
        try:
            memory.append(int(statm.read_text().split()[1]) * 4096 / 1e6)
        except (OSError, IndexError):
            break
        time.sleep(0.25)
    if process.wait():
        raise SystemExit("the uninterrupted run failed")
    return time.perf_counter() - start, memory


def killed(command: list, partial: Path, kills: int, seconds: float) -> None:
    for kill in range(1, kills + 1):
        process = subprocess.Popen(command)
        time.sleep(seconds / (kills + 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed: {len(partial.read_bytes().splitlines())} lines so far, kill {kill}")
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
