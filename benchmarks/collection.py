"""Measures throughput and memory of `resift rerank --pools` on many small pools, and tests that it resumes.

    python -m benchmarks collection [--pools 20000] [--kills 2] [--model ARTIFACT]

Ranks a file once uninterrupted and once killed several times by SIGKILL, and compares the outputs byte by byte.
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

from benchmarks.material import gate_pools, words_in

SEED = 3
MAX_WORDS = 12
"""Maximum number of words in a document, as in titles and snippets."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--model", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "pools.jsonl"
        pairs = write_pools(source, arguments.pools)
        command = [Path(sysconfig.get_path("scripts")) / "resift", "rerank", "--pools", source]
        command += ["--model", arguments.model] if arguments.model else []
        seconds, memory = run_uninterrupted([*command, "--out", folder / "whole.jsonl"])
        middle = max(memory[len(memory) // 4 : len(memory) // 2], default=0.0)
        rates = f"{arguments.pools / seconds:.0f} pools/s, {pairs / seconds:.0f} pairs/s"
        print(f"{arguments.pools} pools, {pairs} pairs in {seconds:.0f} s: {rates}")
        print(f"memory: at most {middle:.0f} MB in the second quarter, {max(memory[-len(memory) // 4 :]):.0f} MB in the last")
        run_with_kills([*command, "--out", folder / "killed.jsonl"], folder / "killed.jsonl.partial", arguments.kills, seconds)
        same = (folder / "whole.jsonl").read_bytes() == (folder / "killed.jsonl").read_bytes()
        lines = len((folder / "killed.jsonl").read_bytes().splitlines())
        verdict = "equal" if same else "NOT EQUAL"
        print(f"killed {arguments.kills} times and resumed: {lines} lines, {verdict} to the uninterrupted run")
        return int(not same or lines != arguments.pools)


def write_pools(path: Path, count: int) -> int:
    choose = random.Random(SEED)
    pools = gate_pools()
    words = words_in(pools)
    pairs = 0
    with path.open("w") as file:
        for number in range(count):
            size = choose.randint(2, 8)
            pairs += size
            documents = [" ".join(choose.choices(words, k=choose.randint(3, MAX_WORDS))) for _ in range(size)]
            file.write(json.dumps({"qid": number, "query": choose.choice(pools).query[:40], "documents": documents}) + "\n")
    return pairs


def run_uninterrupted(command: list) -> tuple[float, list[float]]:
    """Runs the command; returns its seconds and samples of its resident megabytes."""
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


def run_with_kills(command: list, partial: Path, kills: int, seconds: float) -> None:
    """Runs the command, kills it `kills` times on the way, and lets it finish."""
    for kill in range(1, kills + 1):
        process = subprocess.Popen(command)
        time.sleep(seconds / (kills + 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed: {len(partial.read_bytes().splitlines())} lines so far, kill {kill}")
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
