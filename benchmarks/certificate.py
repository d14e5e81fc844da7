"""Measures how far an artifact's int8 graph agrees with its checkpoint in float32, by the length of the pair.

    pip install '.[export]'
    python -m benchmarks certificate ARTIFACT CHECKPOINT [--against ARTIFACT] [--pairs N] [--pools FILE ...] [--json FILE]

Each length class, as `resift verify` has them, gets at least N pairs (default: 300) in equal parts from the FILEs of labelled pools
(default: those of the shared material if it is next to the repository, and the built-in gate), from the same texts cut to that
length, from the short pools of this folder and from generated pairs. A pool has 5 to 10 documents of its class; a class that has
too few is named.

"tau" and "top 10" (of fewer than 20 documents the better half) are means over the pools; "p99" and "off" (the share of pairs that
are more than 1 logit off) are over the pairs, in logits. Brackets hold 95 % intervals from bootstrapping the pools. With a second
artifact, a second table has its figures, and a third its differences from the first on the same draws: a figure is worse beyond
its interval if the interval lies on one side of 0.
"""

from __future__ import annotations

import argparse
import json
from itertools import chain, cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.material import EVALUATION, GATE_POOLS, SHORT_POOLS
from resift import Reranker, Settings
from resift.artifact.agreement import Pool
from resift.artifact.coverage import class_bounds
from resift.artifact.folder import Artifact
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.encoding.generated_pairs import generated_pools, words_of
from resift.metrics import kendall_tau, top_overlap
from resift.pools.source import read_pools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from resift.encoding.tokenizer import PairTokenizer

LEAST, MOST = 5, 10
"""Documents of a pool in one class."""
GENERATED = 20_000
DRAWS, SEED = 1000, 5


class PoolAgreement(NamedTuple):
    """The agreement on one pool."""

    tau: float
    overlap: float
    errors: NDArray[np.float64]
    """|logit - checkpoint's| of each pair"""


def _errors(pools: Sequence[PoolAgreement]) -> NDArray[np.float64]:
    return np.concatenate([pool.errors for pool in pools])


FIGURES: dict[str, Callable[[Sequence[PoolAgreement]], float]] = {
    "tau": lambda pools: float(np.mean([pool.tau for pool in pools])),
    "top 10": lambda pools: float(np.mean([pool.overlap for pool in pools])),
    "p99": lambda pools: float(np.percentile(_errors(pools), 99)),
    "off": lambda pools: float((_errors(pools) > 1).mean()),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks certificate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact")
    parser.add_argument("checkpoint")
    parser.add_argument("--against", metavar="ARTIFACT", help="another artifact of the checkpoint")
    parser.add_argument("--pairs", type=int, default=300, help="pairs of a class (default: %(default)s)")
    parser.add_argument("--pools", type=Path, nargs="+", default=[*sorted(EVALUATION.glob("*.jsonl.gz")), GATE_POOLS])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    from resift_export.checkpoint.load import load

    checkpoint = load(arguments.checkpoint)
    artifacts = [Artifact.find(each) for each in (arguments.artifact, arguments.against) if each is not None]
    tokenizer = open_tokenizer(artifacts[0])
    if any(each.manifest.pair.max_length != checkpoint.max_length for each in artifacts):
        raise SystemExit(f"an artifact reads other lengths than {arguments.checkpoint}; expected artifacts of that checkpoint")
    classes = pools_by_class(arguments.pools, tokenizer, checkpoint.max_length, arguments.pairs)
    pools = list(chain.from_iterable(classes.values()))
    references = checkpoint.references([(pool.query, pool.documents) for pool in pools])
    checkpoint.release()
    found = [by_class(classes, agreements(references, int8_logits(each, pools))) for each in artifacts]
    tables = [{end: figures(each) for end, each in agreed.items()} for agreed in found]
    titles = [str(each.folder) for each in artifacts]
    if len(found) > 1:
        tables.append({end: figures(found[1][end], found[0][end]) for end in found[0]})
        titles.append("the second less the first")
    for title, table in zip(titles, tables, strict=True):
        print(f"\n{title}\n{text_of(table, classes)}", flush=True)
    for end, parts in classes.items():
        if (pairs := sum(len(pool.documents) for pool in parts)) < arguments.pairs:
            print(f"up to {end} tokens: only {pairs} pairs")
    if arguments.json:
        arguments.json.write_text(json.dumps(dict(zip(titles, tables, strict=True)), indent=1))


def pools_by_class(files: Sequence[Path], tokenizer: PairTokenizer, max_length: int, pairs: int) -> dict[int, list[Pool]]:
    """Pools of at least `pairs` pairs, if there are so many, for each length class, by the tokens of its longest pair."""
    labelled = [pool for file in files for pool in _read(file, tokenizer)]
    short = [pool for file in SHORT_POOLS for pool in _read(file, tokenizer)]
    sources = [labelled, short, generated_pools(words_of(labelled), tokenizer, max_length, GENERATED)]
    classes, low, per_word = {}, 0, _tokens_per_word(labelled, tokenizer)
    for end in class_bounds(max_length):
        generator = np.random.default_rng(end)
        parts = [_parts(source, tokenizer, low, end) for source in sources]
        cut = (_cut(pool, generator.integers(low + 1, end + 1, len(pool.documents)) / per_word) for pool in labelled)
        parts.append(_parts(cut, tokenizer, low, end))
        classes[end], low = _in_turn(parts, pairs), end
    return classes


def _read(file: Path, tokenizer: PairTokenizer) -> Iterator[Pool]:
    """The pools of a file whose query leaves room for documents."""
    for number, pool in enumerate(read_pools(file)):
        if not tokenizer.encode(pool.query, []).query_tokens_cut:
            yield Pool(qid=f"{file.name} {number}", query=pool.query, documents=pool.documents)


def _tokens_per_word(pools: Sequence[Pool], tokenizer: PairTokenizer) -> float:
    """The tokens of the pools' pairs for each word of theirs."""
    tokens = sum(int(tokenizer.encode(pool.query, pool.documents).lengths.sum()) for pool in pools)
    words = sum(len(f"{pool.query} {text}".split()) for pool in pools for text in pool.documents)
    return tokens / max(1, words)


def _cut(pool: Pool, words: NDArray[np.float64]) -> Pool:
    """The pool, each document cut so that its pair has about so many words."""
    room = words - len(pool.query.split())
    texts = [" ".join(text.split()[: max(0, int(most))]) for text, most in zip(pool.documents, room, strict=True)]
    return Pool(qid=f"{pool.qid} cut", query=pool.query, documents=texts)


def _parts(pools: Iterator[Pool] | Sequence[Pool], tokenizer: PairTokenizer, low: int, end: int) -> Iterator[Pool]:
    """Of each pool the distinct documents whose pairs have more than `low` and at most `end` tokens, if they are enough."""
    for pool in pools:
        texts = list(dict.fromkeys(pool.documents))
        lengths = tokenizer.encode(pool.query, texts).lengths
        texts = [text for text, length in zip(texts, lengths, strict=True) if low < length <= end][:MOST]
        if len(texts) >= LEAST:
            yield Pool(qid=pool.qid, query=pool.query, documents=texts)


def _in_turn(sources: Sequence[Iterator[Pool]], pairs: int) -> list[Pool]:
    """Pools from the sources in turn, until they have so many pairs or all sources are at their end."""
    taken: list[Pool] = []
    waiting = list(sources)
    for source in cycle(sources):
        if not waiting or sum(len(pool.documents) for pool in taken) >= pairs:
            return taken
        if source in waiting:
            pool = next(source, None)
            if pool is None:
                waiting.remove(source)
            else:
                taken.append(pool)
    return taken


def int8_logits(artifact: Artifact, pools: Sequence[Pool]) -> list[NDArray[np.float32]]:
    """The logits of its int8 graph for each pool."""
    with Reranker(artifact, settings=Settings(provider="cpu", precision="int8")) as reranker:
        futures = [reranker.submit(pool.query, pool.documents, plan="full") for pool in pools]
        return [future.result().logits for future in futures]


def agreements(references: Sequence[NDArray[np.float32]], logits: Sequence[NDArray[np.float32]]) -> list[PoolAgreement]:
    """The agreement on each pool."""
    return [
        PoolAgreement(kendall_tau(exact, found), top_overlap(exact, found), np.abs(found.astype(np.float64) - exact))
        for exact, found in zip(references, logits, strict=True)
    ]


def by_class(classes: dict[int, list[Pool]], found: Sequence[PoolAgreement]) -> dict[int, list[PoolAgreement]]:
    """The agreements, which are in the order of the classes, by class."""
    remaining = iter(found)
    return {end: [next(remaining) for _ in pools] for end, pools in classes.items()}


def figures(pools: Sequence[PoolAgreement], less: Sequence[PoolAgreement] | None = None) -> dict[str, list[float]]:
    """Each figure with the ends of its interval, or those of its difference from `less`, other agreements on the same pools."""
    if not pools:
        return {}
    draws = np.random.default_rng(SEED).integers(0, len(pools), (DRAWS, len(pools)))
    found = {}
    for name, figure in FIGURES.items():

        def value(numbers: Sequence[int], figure: Callable[[Sequence[PoolAgreement]], float] = figure) -> float:
            here = figure([pools[number] for number in numbers])
            return here if less is None else here - figure([less[number] for number in numbers])

        low, high = np.percentile([value(draw) for draw in draws.tolist()], (2.5, 97.5))
        found[name] = [value(range(len(pools))), float(low), float(high)]
    return found


def text_of(table: dict[int, dict[str, list[float]]], classes: dict[int, list[Pool]]) -> str:
    """The table of one artifact, a line for each class."""
    lines = [f"| up to | pools | pairs | {' | '.join(FIGURES)} |", "|---" * (3 + len(FIGURES)) + "|"]
    for end, row in table.items():
        cells = [f"{value:.4f} [{low:.4f}, {high:.4f}]" for value, low, high in row.values()] or ["-"] * len(FIGURES)
        lines.append(f"| {end} | {len(classes[end])} | {sum(len(p.documents) for p in classes[end])} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
