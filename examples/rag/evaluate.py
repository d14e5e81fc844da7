"""Before and after: how well each stage of rag.py finds the sections that answer the labelled questions, and how long it takes.

    python examples/rag/evaluate.py
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rag import DEPTH, HERE, add_folders, load, rerank

from resift import Reranker
from resift.evaluate.measures import Judge
from resift.evaluate.significance import bootstrap_interval, randomization_test

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from chunks import Chunk
    from numpy.typing import NDArray

    Stage = Callable[[str], list[int]]
    """From a question to positions of chunks, best first"""
    Questions = Mapping[str, tuple[str, dict[str, int]]]
    """by its id: the question, and the label of each section that answers it (2) or helps (1)"""

MEASURES = ("nDCG@10", "R@5", "RR@10")
"""ir-measures' names; RR@10's mean is also called MRR@10."""
LISTED = 10
"""Questions listed at most that reranking made worse."""


def read_questions(path: Path, chunks: Sequence[Chunk]) -> Questions:
    """The labelled questions, one JSON object a line: {"qid", "query", "relevant": {section: label}}."""
    known = {chunk.section for chunk in chunks}
    questions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            asked = json.loads(line)
            qid, query, relevant = asked["qid"], asked["query"], asked["relevant"]
        except (ValueError, LookupError, TypeError) as error:
            raise SystemExit(f'{path}, line {number}: {error!r}; expected {{"qid", "query", "relevant": {{section: label}}}}') from error
        if unknown := relevant.keys() - known:
            raise SystemExit(f"{path}, line {number}: the corpus has no section {min(unknown)!r}; correct the label or the corpus")
        questions[qid] = query, relevant
    return questions


def run(stages: Mapping[str, Stage], questions: Questions) -> tuple[dict[str, list[list[int]]], dict[str, NDArray[np.float64]]]:
    """By stage: its ranking for each question, and float64[n], the milliseconds it took.

    The stage that begins changes from question to question, so that none is always the first or the last.
    """
    rankings: dict[str, list[list[int]]] = {name: [] for name in stages}
    times: dict[str, list[float]] = {name: [] for name in stages}
    order = list(stages)
    for name in order:  # untimed: first calls load and warm up
        stages[name](next(iter(questions.values()))[0])
    for query, _ in questions.values():
        for name in order:
            start = time.perf_counter()
            rankings[name].append(stages[name](query))
            times[name].append((time.perf_counter() - start) * 1000)
        order.append(order.pop(0))
    return rankings, {name: np.array(column) for name, column in times.items()}


def measure(rankings: Mapping[str, list[list[int]]], questions: Questions, chunks: Sequence[Chunk]) -> dict[str, NDArray[np.float64]]:
    """By stage: float64[n, measures]. What counts is the section: a section in several chunks has the rank of its best one."""
    sections = list(dict.fromkeys(chunk.section for chunk in chunks))
    numbers = {section: number for number, section in enumerate(sections)}
    judge = Judge(MEASURES, list(questions), [sections] * len(questions), {qid: labels for qid, (_, labels) in questions.items()})
    values = {}
    for name, found in rankings.items():
        orders = [np.array(list(dict.fromkeys(numbers[chunks[position].section] for position in ranking)), int) for ranking in found]
        columns = judge.values(orders)
        values[name] = np.stack([columns[each] for each in judge.names], axis=1)
    return values


def print_table(values: Mapping[str, NDArray[np.float64]], times: Mapping[str, NDArray[np.float64]]) -> None:
    """Means with 95 % bootstrap intervals over questions, latencies, and what reranking changed."""
    print(f"{'':20}" + "".join(f"{name:23}" for name in MEASURES) + "p50       p95")
    for name, column in values.items():
        p50, p95 = np.percentile(times[name], [50, 95])
        print(f"{name:20}{cells(column, '.3f')}{f'{p50:.1f} ms':10}{p95:.1f} ms")
    difference = values["reranked"] - values["hybrid"]
    print(f"{'reranked - hybrid':20}{cells(difference, '+.3f')}")
    print(f"{'p':20}" + "".join(f"{p:<23.4f}" for p in randomization_test(difference)))


def cells(column: NDArray[np.float64], form: str) -> str:
    """The mean and interval of each measure."""
    low, high = bootstrap_interval(column)
    rows = zip(column.mean(axis=0), low, high, strict=True)
    return "".join(f"{f'{mean:{form}} [{least:{form}}, {most:{form}}]':23}" for mean, least, most in rows)


def print_changes(values: Mapping[str, NDArray[np.float64]], rankings: Mapping[str, list[list[int]]], questions: Questions, chunks: Sequence[Chunk]) -> None:
    """How many questions reranking changed, and those it made worse."""
    before, after = values["hybrid"][:, 0], values["reranked"][:, 0]
    worse = [int(number) for number in np.argsort(after - before, kind="stable") if after[number] < before[number]]
    print(f"\n{MEASURES[0]} after reranking: better in {int((after > before).sum())} questions, worse in {len(worse)}, "
          f"equal in {int((after == before).sum())}.")  # fmt: skip
    for number in worse[:LISTED]:
        query, relevant = list(questions.values())[number]
        first = chunks[rankings["reranked"][number][0]].section
        print(f"  {before[number]:.2f} -> {after[number]:.2f}  {query}  (first: {first}; expected: {', '.join(relevant)})")


def main() -> None:
    """Runs all stages on all questions and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser)
    parser.add_argument("--questions", type=Path, default=HERE / "questions.jsonl", help="labelled questions (default: %(default)s)")
    asked = parser.parse_args()
    retriever = load(asked)
    chunks = retriever.chunks
    questions = read_questions(asked.questions, chunks)
    with Reranker.load() as reranker:
        stages: dict[str, Stage] = {
            "dense": retriever.dense,
            "BM25": retriever.lexical,
            "hybrid": retriever.hybrid,
            "reranked": lambda question: rerank(reranker, question, chunks, retriever.hybrid(question)),
        }
        rankings, times = run(stages, questions)
    values = measure(rankings, questions, chunks)
    print(f"{len(questions)} questions, {len(chunks)} chunks, {DEPTH} candidates reranked; in brackets 95 % bootstrap intervals\n")
    print_table(values, times)
    print_changes(values, rankings, questions, chunks)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
