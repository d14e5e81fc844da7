"""Compares a local Ray cluster with one process: on the same pairs, with a worker killed, with the whole run killed and resumed.

    pip install '.[ray]' && python -m benchmarks ray_pairs [--pairs 20000] [--workers 2] [--model ARTIFACT]

Writes Parquet of pools and ranks them in this process, then by `workers` actors of one CPU each, then again while one actor is
killed by SIGKILL, and finally by `resift rerank --engine ray`, which is killed by SIGKILL when some of its files are written,
and run again. Every output is compared with that of this process, bit by bit. This process has as many threads as
there are workers.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks.material import gate_pools, words_in
from resift import Reranker, Settings
from resift.integrations.ray import rerank_parquet

SEED = 5
CANDIDATES = 10
WORDS = 40
"""Maximum number of words in a document."""
POLL_SECONDS = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", type=int, default=20)
    parser.add_argument("--model", default=None)
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "pools.parquet"
        pools = write_pools(source, max(1, arguments.pairs // CANDIDATES))
        local, here = rank_here(pools, arguments.model, arguments.workers)
        pairs = sum(len(pool["documents"]) for pool in pools)
        print(f"{pairs} pairs in one process, {arguments.workers} threads: {here:.1f} s, {pairs / here:.0f} pairs/s")
        ray.init(num_cpus=arguments.workers, include_dashboard=False, object_store_memory=1 << 28, log_to_driver=False)
        options = {"model": arguments.model, "workers": arguments.workers, "part_pools": max(1, len(pools) // arguments.parts)}
        wrong = 0
        for kills in (0, 1):
            out = folder / f"ranked-{kills}"
            killer = threading.Thread(target=kill_a_worker, args=(out, arguments.parts // 2), daemon=True)
            began = time.perf_counter()
            if kills:
                killer.start()
            rerank_parquet(source, out, **options)
            seconds = time.perf_counter() - began
            if kills:
                killer.join()
            wrong += count_differences(f"{arguments.workers} workers, {kills} killed", out, local)
            print(f"    {seconds:.1f} s, {pairs / seconds:.0f} pairs/s: {here / seconds:.2f} of one process's rate")
        ray.shutdown()
        out = folder / "ranked-resumed"
        command: list[str | Path] = [Path(sysconfig.get_path("scripts")) / "resift", "rerank", source, "-o", out, "--engine", "ray"]
        command += ["--workers", str(arguments.workers), *(["--model", arguments.model] if arguments.model else [])]
        kill_the_run(command, out, len(pools) // 500 // 2)
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        wrong += count_differences("the whole run killed and resumed", out, local)
        return int(wrong > 0)


def write_pools(path: Path, count: int) -> list[dict]:
    choose = random.Random(SEED)
    drawn_from = gate_pools()
    words = words_in(drawn_from)
    pools = [
        {
            "qid": number,
            "query": choose.choice(drawn_from).query,
            "documents": [" ".join(choose.choices(words, k=choose.randint(WORDS // 2, WORDS))) for _ in range(CANDIDATES)],
        }
        for number in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(pools), path)
    return pools


def rank_here(pools: list[dict], model: str | None, threads: int) -> tuple[list, float]:
    """The rankings as (qid, [(index, logit), ...]), and the seconds they took."""
    with Reranker.load(model, settings=Settings(threads=threads)) as reranker:
        began = time.perf_counter()
        rankings = reranker.rerank_many([pool["query"] for pool in pools], [pool["documents"] for pool in pools])
        seconds = time.perf_counter() - began
    pairs = zip(pools, rankings, strict=True)
    return [(pool["qid"], [(result.index, result.logit) for result in ranking]) for pool, ranking in pairs], seconds


def count_differences(what: str, out: Path, local: list) -> int:
    """Prints how many rankings are missing, repeated or different, and returns the sum."""
    rows = [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    found = [(row["qid"], [(result["index"], result["logit"]) for result in row["results"]]) for row in rows]
    qids = [qid for qid, _ in found]
    missing, repeated = len(local) - len(set(qids)), len(qids) - len(set(qids))
    different = sum(expected != got for expected, got in zip(local, found, strict=False))
    print(f"{what}: {len(found)} pools; missing {missing}, repeated {repeated}, not equal to the bit {different}")
    return missing + repeated + different


def kill_a_worker(out: Path, parts: int) -> None:
    """Kills one actor of this process's Ray cluster once `parts` parts are written."""
    wait_for(out, parts)
    # The actors are children of the raylet, which is a child of this process.
    actor = next(pid for pid, (parent, line) in processes().items() if "ray::MapWorker" in line and is_below(parent))
    os.kill(actor, signal.SIGKILL)
    print(f"killed actor {actor} after {len(list(out.glob('part-*')))} parts")


def kill_the_run(command: list, out: Path, parts: int) -> None:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(out, max(1, parts), process)
    process.kill()
    process.wait()
    print(f"killed the run after {len(list(out.glob('part-*')))} parts")


def wait_for(out: Path, parts: int, process: subprocess.Popen | None = None) -> None:
    while len(list(out.glob("part-*"))) < parts:
        if process and process.poll() is not None:
            raise SystemExit("the run ended before it could be killed: ask for more --pairs")
        time.sleep(POLL_SECONDS)


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of each process, by process id."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            found[int(status.parent.name)] = parent, (status.parent / "cmdline").read_text(errors="replace")
        except OSError:
            continue
    return found


def is_below(pid: int) -> bool:
    """Whether a process is this one or descends from it."""
    parents = {child: parent for child, (parent, _) in processes().items()}
    while pid in parents and pid != os.getpid():
        pid = parents[pid]
    return pid == os.getpid()


if __name__ == "__main__":
    sys.exit(main())
