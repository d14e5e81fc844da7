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

from rag import DEPTH, HERE, add_folders, load, rerank, run
from resift import Reranker
from resift.evaluate.measures import Judge
from resift.evaluate.significance import bootstrap_interval, randomization_test

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from chunks import Chunk

    Stage = Callable[[str], list[int]]
    """From a question to positions of chunks, best first"""
    Rankings = Mapping[str, Sequence[Sequence[int]]]
    """by stage: for each question, positions of chunks"""
    Values = Mapping[str, NDArray[np.float64]]
    """by stage: float64[n, measures]"""
    Questions = Mapping[str, tuple[str, dict[str, int]]]
    """by its id: the question, and the label of each section that answers it (2) or helps (1)"""

MEASURES = ("nDCG@10", "R@5", "RR@10")
"""ir-measures' names; RR@10's mean is also called MRR@10."""
LISTED = 10
"""Questions listed at most that reranking made worse."""


def read_questions(path: Path, chunks: Sequence[Chunk]) -> Questions:
    """The labelled questions, one JSON object a line: {"qid", "query", "relevant": {section: label}}."""
    known = {chunk.section for chunk in chunks}
    questions: dict[str, tuple[str, dict[str, int]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            asked = json.loads(line)
            qid, query, relevant = asked["qid"], asked["query"], {name: int(label) for name, label in asked["relevant"].items()}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            expected = '{"qid": ..., "query": ..., "relevant": {section: label, ...}}'
            raise SystemExit(f"{path}, line {number}: {error!r}; expected {expected}") from error
        if unknown := relevant.keys() - known:
            raise SystemExit(f"{path}, line {number}: the corpus has no section {min(unknown)!r}; correct the label or the corpus")
        if qid in questions:
            raise SystemExit(f"{path}, line {number}: a second question {qid!r}; expected distinct ids")
        questions[qid] = query, relevant
    if not questions:
        raise SystemExit(f"{path} holds no questions")
    return questions


def rank_all(stages: Mapping[str, Stage], questions: Questions) -> tuple[Rankings, dict[str, NDArray[np.float64]]]:
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


def measure(rankings: Rankings, questions: Questions, chunks: Sequence[Chunk]) -> Values:
    """Every ranking's measures. What counts is the section: a section in several chunks has the rank of its best one."""
    sections = list(dict.fromkeys(chunk.section for chunk in chunks))
    numbers = {section: number for number, section in enumerate(sections)}
    judge = Judge(MEASURES, list(questions), [sections] * len(questions), {qid: labels for qid, (_, labels) in questions.items()})
    values = {}
    for name, found in rankings.items():
        orders = [
            np.array(list(dict.fromkeys(numbers[chunks[position].section] for position in ranking)), int) for ranking in found
        ]
        columns = judge.values(orders)
        values[name] = np.stack([columns[each] for each in judge.names], axis=1)
    return values


def found(rankings: Sequence[Sequence[int]], questions: Questions, chunks: Sequence[Chunk]) -> float:
    """The mean share of a question's relevant sections that are ranked at all: what bounds a reranker."""
    shares = [
        len(relevant.keys() & {chunks[position].section for position in ranking}) / len(relevant)
        for ranking, (_, relevant) in zip(rankings, questions.values(), strict=True)
    ]
    return float(np.mean(shares))


def print_table(values: Values, times: Mapping[str, NDArray[np.float64]]) -> None:
    """Means with 95 % bootstrap intervals over questions, latencies, and what reranking gains, with p-values."""
    print(f"{'':20}" + "".join(f"{name:25}" for name in MEASURES) + "p50         p95")
    for name, column in values.items():
        p50, p95 = np.percentile(times[name], [50, 95])
        print(f"{name:20}{cells(column, '.3f')}{f'{p50:.1f} ms':12}{p95:.1f} ms")
    for name in ("hybrid", "dense"):
        difference = values["reranked"] - values[name]
        print(f"{f'reranked - {name}':20}{cells(difference, '+.3f')}".rstrip())
        print(f"{'  p':20}{''.join(f'{p:<25.4f}' for p in randomization_test(difference))}".rstrip())


def cells(column: NDArray[np.float64], form: str) -> str:
    """The mean and interval of each measure."""
    rows = zip(column.mean(axis=0), *bootstrap_interval(column), strict=True)
    return "".join(f"{f'{mean:{form}} [{low:{form}}, {high:{form}}]':25}" for mean, low, high in rows)


def print_changes(values: Values, rankings: Rankings, questions: Questions, chunks: Sequence[Chunk]) -> None:
    """How many questions reranking changed, and those it made worse."""
    change = values["reranked"][:, 0] - values["hybrid"][:, 0]
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    print(
        f"\n{MEASURES[0]} after reranking: better in {better} questions, worse in {worse}, equal in {len(change) - better - worse}."
    )
    for number in np.argsort(change, kind="stable")[: min(worse, LISTED)].tolist():
        query, relevant = list(questions.values())[number]
        first = chunks[rankings["reranked"][number][0]].section
        print(f"  {change[number]:+.2f}  {query}\n         first: {first}; expected: {', '.join(relevant)}")


def main() -> None:
    """Runs all stages on all questions and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser)
    parser.add_argument(
        "--questions", type=Path, default=HERE / "questions.jsonl", help="labelled questions (default: %(default)s)"
    )
    asked = parser.parse_args()
    retriever = load(asked.corpus, asked.index)
    chunks = retriever.chunks
    questions = read_questions(asked.questions, chunks)
    with Reranker.load() as reranker:
        stages: dict[str, Stage] = {
            "dense": retriever.dense,
            "BM25": retriever.lexical,
            "hybrid": retriever.hybrid,
            "reranked": lambda question: rerank(reranker, question, chunks, retriever.hybrid(question)),
        }
        rankings, times = rank_all(stages, questions)
    values = measure(rankings, questions, chunks)
    share = found(rankings["hybrid"], questions, chunks)
    print(f"{len(questions)} questions, {len(chunks)} chunks; {DEPTH} are reranked, which hold {share:.1%} of what is relevant.")
    print("In brackets: 95 % bootstrap intervals.\n")
    print_table(values, times)
    print_changes(values, rankings, questions, chunks)


if __name__ == "__main__":
    run(main)
