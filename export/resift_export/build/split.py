"""split: the two graphs of a split first look at the recipe's precisions.

The first layers are in both halves. In each int8 file their activations have one range for documents and queries, so that their
weights are equal to the bit, and stored once.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resift.artifact.signature import DOCUMENT_TOKENS, QUERY_OF, STATES, Split
from resift.errors import ExportError
from resift_export.build.draft import levels_of
from resift_export.build.first_look import first_look_file
from resift_export.build.graph_files import document_file
from resift_export.checkpoint.halves import SplitReference
from resift_export.graph.edit import lower_opset
from resift_export.graph.halves import EXACT, Halves, StateLevels, ignore_padding, read_levels, trace_halves, write_levels
from resift_export.graph.weights import map_weights, open_session
from resift_export.int8.calibration import PROBE_WIDTHS, operations_between, operations_of, sample
from resift_export.int8.levels import VNNI_LEVELS
from resift_export.int8.products import by_source, products
from resift_export.int8.quantize import quantize
from resift_export.int8.ranges import choose_range, choose_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift.artifact.agreement import Pool
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.checkpoint.split import SplitLayout
    from resift_export.int8.products import Product
    from resift_export.int8.ranges import Range
    from resift_export.progress import Report
    from resift_export.recipe import CalibrationPair, Recipe


Feed = dict[str, Any]
"""The inputs of a graph, by name."""
MULTIPLE = 16
"""What the number of states that the query half reads of a document is rounded up to, so that documents of other lengths share
batches."""

log = logging.getLogger(__name__)


class TracedHalves(NamedTuple):
    """A split checkpoint's float32 graphs, whose weights are on disk."""

    checkpoint: Checkpoint
    layout: SplitLayout
    halves: Halves[ir.Model]
    split: Split
    operations: int
    """per token of a new document"""
    scratch: Halves[Path]
    """folders of their weights and sessions"""


def trace_split(student: Checkpoint, layout: SplitLayout, max_length: int, scratch: Path) -> TracedHalves:
    """Traces and optimizes both halves of the student; their weights are written to the new folder `scratch`.

    `max_length`: that of the artifact's pairs. Raises ExportError if the student cannot be split.
    """
    log.info("trace     both halves of %s, split after layer %d of %d", student.architecture, layout.layers, student.layers)
    if student.is_modular:
        raise ExportError(f"{student.id} is split and has modules of sentence-transformers; expected a plain sequence classifier")
    room = student.max_length - layout.document_position
    if room < 1:
        raise ExportError(
            f"{student.id} is split and reads pairs of up to {student.max_length} tokens, but its documents begin at position "
            f"{layout.document_position}; expected a document_position below its max_length"
        )
    folders = Halves(scratch / "document", scratch / "query")
    for folder in folders:
        folder.mkdir(parents=True)
    traced = trace_halves(student, layout)
    ignore_padding(traced.query, student.layers - layout.layers, f"{student.architecture} of {student.id}")
    halves = Halves(*map(map_weights, traced, folders))
    size = int(student.model.config.hidden_size)
    query, reading = _query_operations(halves.query, folders.query, layout, size)
    split = Split(
        layers=layout.layers,
        query_tokens=layout.document_position,
        document_tokens=min(room, max_length),
        multiple=MULTIPLE,
        size=size,
        query_operations=query,
        reading_operations=reading,
    )
    return TracedHalves(student, layout, halves, split, operations_of(halves.document, folders.document) + reading, folders)


def split_references(
    traced: TracedHalves, pools: Sequence[Pool], full: Sequence[NDArray[np.float32]], report: Report
) -> list[NDArray[np.float32]]:
    """The split checkpoint's own logits of each pool, or the `full` model's where a query is too long; its weights are released."""
    log.info("reference %d pools with the first look in PyTorch", len(pools))
    reference = SplitReference(traced.checkpoint, traced.layout, traced.split.document_tokens)
    found = reference.references([(pool.query, pool.documents) for pool in pools], full, report)
    traced.checkpoint.release()
    return found


def split_models(traced: TracedHalves, recipe: Recipe, pairs: Sequence[CalibrationPair], report: Report) -> dict[str, ir.Model]:
    """Both halves at the recipe's precisions, by file, each query half before its document half.

    Raises ExportError for float16, or if no calibration pair has a query that fits into the slot.
    """
    if "float16" in recipe.precisions:
        raise ExportError("a split first look has no float16 graphs, and --precision has float16; leave one of them out")

    def report_first_look(step: str, done: int, total: int) -> None:
        report(f"first look: {step}", done, total)

    levels_by_file = levels_of(recipe)
    samples = _samples(traced, pairs, report_first_look, is_quantized=bool(levels_by_file))
    models: dict[str, ir.Model] = {}
    for file in dict.fromkeys(variant.file for variant in recipe.variants()):
        query_file = first_look_file(file)
        document, query = (half.clone() for half in traced.halves)
        if levels := levels_by_file.get(file):
            ranges = _ranges(traced.halves, samples, levels, f"ranges of {file}", report_first_look)
            quantize(query, ranges.query, levels=levels, step=f"quantize {file}", report=report_first_look)
            quantize(document, ranges.document, levels=levels)
            states = ranges.query[EXACT]
        else:
            weights = np.concatenate([product.weights for product in products(query) if product.source.name == EXACT], axis=1)
            states = choose_range(samples[EXACT], weights, VNNI_LEVELS)
        levels_of_states = StateLevels(states.scale, states.zero_point, states.smoothing)
        write_levels(document, levels_of_states)
        read_levels(query, levels_of_states)
        models[query_file], models[document_file(query_file)] = lower_opset(query), lower_opset(document)
    return models


def _query_operations(query: ir.Model, scratch: Path, layout: SplitLayout, size: int) -> tuple[int, int]:
    """The query half's operations per token of a query, and per token of a document that it reads."""

    def feed(query_tokens: int, document_tokens: int) -> Feed:
        row, states = np.ones((1, query_tokens), np.int64), np.zeros((1, document_tokens, size), np.float32)
        columns = {str(value.name): row for value in query.graph.inputs}
        return columns | {QUERY_OF: np.zeros(1, np.int64), STATES: states, DOCUMENT_TOKENS: np.array([document_tokens])}

    def count(narrow: Feed, wide: Feed, tokens: int) -> int:
        return sum(operations_between(query, scratch, narrow, wide, tokens).values())

    few, many = PROBE_WIDTHS
    longest = max(layout.document_position, 2)
    return count(feed(longest - 1, few), feed(longest, few), 1), count(feed(longest, few), feed(longest, many), many - few)


def _samples(
    traced: TracedHalves, pairs: Sequence[CalibrationPair], report: Report, *, is_quantized: bool
) -> dict[str, NDArray[np.float32]]:
    """float32[rows, inputs]: sampled activations of the query half's products, by name; only those of EXACT unless `is_quantized`.

    Activations that the document half has, too, are those of documents and of queries. Raises ExportError like `_feeds`.
    """
    feeds, halves, folders = _feeds(traced, pairs), traced.halves, traced.scratch
    log.info("calibrate both halves on %d pairs", len(feeds.query))
    if not is_quantized:
        return sample(halves.query, [EXACT], feeds.query, folders.query, report=report)
    document, query = (
        sample(half, [str(source.name) for source in by_source(products(half))], inputs, folder, report=report)
        for half, inputs, folder in zip(halves, feeds, folders, strict=True)
    )
    return query | {name: np.concatenate([document[partner], query[name]]) for partner, name in _partners(halves).items()}


def _feeds(traced: TracedHalves, pairs: Sequence[CalibrationPair]) -> Halves[list[Feed]]:
    """Each half's inputs for each pair. Raises ExportError if no query fits into the slot."""
    split, signature, tokenizer = traced.split, traced.checkpoint.signature, traced.checkpoint.pair_tokenizer()
    session = open_session(traced.halves.document, traced.scratch.document)
    documents: list[Feed] = []
    queries: list[Feed] = []
    for pair in pairs:
        encodings = tokenizer.encode(pair.query, [pair.document])
        if encodings.query_tokens[0] > split.query_tokens:
            continue
        parts = encodings.query(0), encodings.document(0, split.document_tokens)
        rows: list[Feed] = [
            {"input_ids": ids[None].astype(np.int64), "token_type_ids": segment_ids[None].astype(np.int64)}
            for ids, segment_ids in parts
        ]
        query, document = (Feed(signature.feed(row)) for row in rows)
        [states] = session.run(None, document)
        query |= {QUERY_OF: np.zeros(1, np.int64), STATES: states, DOCUMENT_TOKENS: np.array([states.shape[1]])}
        documents.append(document)
        queries.append(query)
    if not queries:
        raise ExportError(
            f"no calibration pair has a query of at most {split.query_tokens} tokens, which a split first look reads; expected "
            "some with --calibration"
        )
    return Halves(documents, queries)


def _ranges(
    halves: Halves[ir.Model], samples: Mapping[str, NDArray[np.float32]], levels: int, step: str, report: Report
) -> Halves[Mapping[str, Range]]:
    """The range of each activation of each half, by its name; the same for those that are in both."""
    ranges = choose_ranges(halves.query, samples, levels=levels, step=step, report=report)
    return Halves({name: ranges[partner] for name, partner in _partners(halves).items()}, ranges)


def _partners(halves: Halves[ir.Model]) -> dict[str, str]:
    """For each activation of the document half, by its name, that of the query half which is read by the same weights."""
    documents, queries = (
        {_digest(readers): str(source.name) for source, readers in by_source(products(half)).items()} for half in halves
    )
    return {name: queries[digest] for digest, name in documents.items()}


def _digest(readers: Sequence[Product]) -> frozenset[bytes]:
    return frozenset(hashlib.sha256(product.weights.tobytes()).digest() for product in readers)
