"""judge: measures a training on queries that it never saw, and on guards, and says what speaks against its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.evaluate.data.dataset import Dataset, read_dataset
from resift.evaluate.evaluation import evaluate
from resift.evaluate.systems import CheckpointSystem
from resift.pools.reading import CandidatePool
from resift_export.recipe import built_in
from resift_export.train.pairs import pool_of
from resift_export.train.recipe import POINT, Comparison

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from resift.encoding.tokenizer import PairTokenizer
    from resift.pools.training_pairs import TrainingPairs
    from resift_export.progress import Report

MEASURES = ("nDCG@10", "P@1")
BEFORE, AFTER = "before", "after"
HELD_OUT, GUARD = "held-out queries", "built-in guard"


def held_out_dataset(queries: Sequence[TrainingPairs]) -> Dataset:
    """The queries with their labelled documents, as data that `evaluate` and `calibrate` read."""
    pools, qrels = [], {}
    for number, pairs in enumerate(queries):
        query, documents, labels = pool_of(pairs)
        fields = [{"docid": str(place)} for place in range(len(documents))]
        pools.append(CandidatePool(query, documents, str(number), fields))
        qrels[str(number)] = {str(place): label for place, label in enumerate(labels)}
    return Dataset(HELD_OUT, "pools", pools, qrels, {})


def read_guards(paths: Sequence[Path], tokenizer: PairTokenizer) -> list[Dataset]:
    """The built-in pools, and those of `paths`, without queries that are too long for `tokenizer`.

    Raises InputError like `read_dataset`, and if no query remains.
    """
    guards = [replace(read_dataset(built_in("gate.jsonl")), name=GUARD), *map(read_dataset, paths)]
    found = []
    for guard in guards:
        pools = [pool for pool in guard.pools if not tokenizer.encode(pool.query, []).query_tokens_cut]
        if not pools:
            raise InputError(f"{guard.name} has no query to guard that the model reads whole; raise --max-length, or leave it out")
        found.append(replace(guard, pools=pools))
    return found


def compare(  # noqa: PLR0913 - what is compared, and how
    dataset: Dataset, before: Path, after: Path, max_length: int, device: str, report: Report
) -> Comparison:
    """Both checkpoints on the same pools, as `resift eval --checkpoint` measures them. Raises like `evaluate`."""
    systems = [
        CheckpointSystem(folder, max_length=max_length, device=device, name=name)
        for folder, name in ((before, BEFORE), (after, AFTER))
    ]

    def progress(*, pools: int, pairs: int, share: float | None) -> None:  # noqa: ARG001 - a Progress
        report(dataset.name, pools, len(dataset.pools))

    found = evaluate(dataset, systems, measures=MEASURES, baseline=BEFORE, progress=progress)
    first, second = (next(system for system in found.systems if system.name == name) for name in (BEFORE, AFTER))
    return Comparison(
        name=found.data.name,
        pools=found.data.pools,
        pairs=found.data.pairs,
        before=first.measures,
        after=second.measures,
        differences=second.differences,
    )


def refusals(held_out: Comparison, guards: Sequence[Comparison]) -> tuple[str, ...]:
    """Why the weights should not be used: one phrase for each comparison in which they are worse beyond its interval."""
    measure = MEASURES[0]
    found = []
    gain = held_out.differences[measure]
    if gain.high < 0:
        found.append(
            f"{measure} on {held_out.pools} held-out queries falls by {-gain.value:.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        )
    for guard in guards:
        change = guard.differences[measure]
        if change.high < -POINT:
            found.append(
                f"{measure} on the guard {guard.name} falls by {-change.value:.4f} [{change.low:+.4f}, {change.high:+.4f}]"
            )
    return tuple(found)
