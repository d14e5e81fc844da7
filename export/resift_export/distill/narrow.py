"""narrow: removes heads and inner units from a student's layers and fits the weights of the others, without training.

The first pass prices the teacher's retained layers, each by itself: heads are removed from its attention, and units from its
feed-forward network, one after the other, always the one for which the others can compensate best. The price of a head or unit is
the error that its removal adds to the sums. Over all layers together, those with the lowest price for their operations are removed.
The second pass goes through the student's layers, from the first: the weights of the remaining heads and units are fitted to the
teacher's sums. Both passes are in closed form, from second moments of the outputs of heads and units for sampled pairs: the optimal
brain surgeon (Hassibi and Stork, 1992) for whole units, as in ZipLM (arXiv:2302.04089), whose search for each layer's size is one
rule here.

A sum is the input of a norm: the residual plus the output of attention or of the feed-forward network. As the student's sums are
fitted to the teacher's for inputs that the student itself computes, its errors do not accumulate from layer to layer. Attention
that retains all its heads is fitted only after skipped layers: in MiniLM with all its layers, fitting it made the ranking worse.

A split model is narrowed as it reads: in its first layers the two texts apart, in the later ones the query's tokens only. Its later
layers compute little for a document, whatever their size, but their weights have to be stored: what counts there is weights.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from resift.errors import InputError
from resift_export.checkpoint.layers import (
    LayerSize,
    head_size,
    keep_heads,
    keep_units,
    layers_of,
    linear,
    parts_of,
    set_linear,
    sizes_of,
)
from resift_export.checkpoint.split import split_of
from resift_export.distill.moments import SumRecorder, moments_of
from resift_export.distill.student import embeddings_of, run_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resift_export.distill.batches import PaddedBatch, Reading

log = logging.getLogger(__name__)
HEAD_PRICE = 1.2
"""Assumed cost of an operation of attention's linear maps, relative to one of the feed-forward network: the computation between the
maps is not counted, grows with the length, and is in float32 where the maps are in int8. In MiniLM of five sizes, the ratio was 1.6
at 95 tokens; but students made with 1 and with 1.5 ranked equally well for their time. The embedded first look has 1.2."""


class Prices(NamedTuple):
    """The price of each of a layer's heads, and of each of its inner units, in the order of removal; the last of each remains.

    A price is the squared error that a removal adds to the sums, as a multiple of their variance.
    """

    heads: list[float]
    units: list[float]


def narrow(  # noqa: PLR0913 - the student, what it learns from, and when it ends
    student: Any,
    teacher: Any,
    keep: Sequence[int],
    width: float,
    batches: Sequence[PaddedBatch],
    should_continue: Callable[[], bool],
) -> bool:
    """Narrows the `student`, which has the teacher's layers `keep`, to the share `width` of its layers' operations, in place.

    Of a split student, it is the share of their weights. The student is fitted on `batches` to the `teacher`, which may be split,
    too: then the pairs of a batch have one query. `should_continue` is called before every layer of both passes; once it returns
    False, this function returns False and leaves the student unfinished. Raises ExportError if the teacher's hidden states are not
    finite or always the same, InputError if `width` is less than one head and one unit of each layer.
    """
    free_prices = [Prices([0.0] * (size.heads - 1), [0.0] * (size.units - 1)) for size in sizes_of(student)]
    is_split = split_of(student, "the student") is not None
    choose_sizes(free_prices, head_size(student), width, is_split=is_split)  # refuses an impossible width before minutes of work
    with torch.no_grad():
        log.info("prices    of heads and units in layers %s", ", ".join(map(str, keep)))
        prices = _prices(teacher, keep, batches, should_continue, fills_last=not is_split)
        if prices is None:
            return False
        sizes = choose_sizes(prices, head_size(student), width, is_split=is_split)
        log.info("sizes     %s (heads x inner units)", ", ".join(f"{size.heads} x {size.units}" for size in sizes))
        return _fit(student, teacher, keep, sizes, batches, should_continue)


def _prices(
    teacher: Any, keep: Sequence[int], batches: Sequence[PaddedBatch], should_continue: Callable[[], bool], *, fills_last: bool
) -> list[Prices] | None:
    """The prices of each of the teacher's layers `keep`; None once `should_continue` returns False.

    `fills_last`: whether the last layer retains its units, whatever their price.
    """
    parts, components = parts_of(teacher), head_size(teacher)
    states, prices = [embeddings_of(teacher, batch) for batch in batches], []
    for number, layer in enumerate(layers_of(teacher)):
        batches = _read_by(teacher, number, batches)
        if number in keep:
            if not should_continue():
                return None
            is_last = number == keep[-1]
            attention = moments_of(layer, parts.attention_output, parts.attention_norm, states, batches, None, is_last=is_last)
            heads = [price / attention.variance for _, price in attention.removal_order(components, 1)]
            units = [0.0] * (linear(layer, parts.outer).in_features - 1)
            if not (is_last and fills_last):
                feed_forward = moments_of(layer, parts.outer, parts.output_norm, states, batches, None, is_last=is_last)
                units = [price / feed_forward.variance for _, price in feed_forward.removal_order(1, 1)]
            prices.append(Prices(heads, units))
        states = [run_layer(layer, inputs, batch) for inputs, batch in zip(states, batches, strict=True)]
    return prices


def _read_by(model: Any, number: int, batches: Sequence[PaddedBatch]) -> list[PaddedBatch]:
    """The batches as the model's layer `number` reads them."""
    split = split_of(model, "the model")
    reading: Reading = "all" if split is None else "apart" if number < split.layers else "frozen"
    return [replace(batch, reading=reading) for batch in batches]


def choose_sizes(prices: Sequence[Prices], components: int, width: float, *, is_split: bool = False) -> list[LayerSize]:
    """The size of each layer such that all layers together retain the share `width` of their operations, or weights if `is_split`.

    `components`: number of components of a head. Heads and units are removed in the order of their price per operation. The last
    layer retains its units: the engine computes them only for the one token of each pair that the model's head reads. Of its
    attention heads, only keys and values count. Of a split model, all weights count. Raises InputError if one head and one unit of
    each layer exceed the share.
    """
    last = None if is_split else len(prices) - 1
    sizes = [LayerSize(len(layer_prices.heads) + 1, len(layer_prices.units) + 1) for layer_prices in prices]
    # A unit has a row in one matrix and a column in another; a head has rows and columns in four, for each of its components.
    heads = [HEAD_PRICE * components * (2 if number == last else 4) for number in range(len(sizes))]
    units = [0 if number == last else 2 for number in range(len(sizes))]
    operations = sum(size.heads * head + size.units * unit for size, head, unit in zip(sizes, heads, units, strict=True))
    limit = width * operations
    choices = []
    for number, layer_prices in enumerate(prices):
        for kind, (unit_prices, work) in enumerate(((layer_prices.heads, heads[number]), (layer_prices.units, units[number]))):
            # The order within a layer is fixed: no removal comes before those that precede it in its layer.
            choices += [(price / work, number, kind, work) for price in itertools.accumulate(unit_prices, max) if work]
    for _, number, kind, work in sorted(choices):
        if operations <= limit:
            break
        size = sizes[number]
        sizes[number] = size._replace(units=size.units - 1) if kind else size._replace(heads=size.heads - 1)
        operations -= work
    if operations > limit:
        raise InputError(
            f"width is {width}, but one head and one unit of each layer are {operations * width / limit:.2f}; expected more"
        )
    return sizes


def _fit(  # noqa: PLR0913 - the student, what it learns from, and when it ends
    student: Any,
    teacher: Any,
    keep: Sequence[int],
    sizes: Sequence[LayerSize],
    batches: Sequence[PaddedBatch],
    should_continue: Callable[[], bool],
) -> bool:
    """Reduces the student's layers to `sizes` and fits them, from first to last; False once `should_continue` returns False."""
    parts, components = parts_of(student), head_size(student)
    student_states = [embeddings_of(teacher, batch) for batch in batches]
    teacher_states, next_layer = student_states, 0
    for layer, number, size in zip(layers_of(student), keep, sizes, strict=True):
        if not should_continue():
            return False
        log.info("fit       layer %d of %s", number, ", ".join(map(str, keep)))
        batches = _read_by(teacher, number, batches)
        skipped_layers = layers_of(teacher)[next_layer:number]
        for skipped in skipped_layers:
            teacher_states = [run_layer(skipped, states, batch) for states, batch in zip(teacher_states, batches, strict=True)]
        teacher_layer, next_layer, is_last = layers_of(teacher)[number], number + 1, number == keep[-1]
        attention_sums = SumRecorder(teacher_layer, parts.attention_norm)
        output_sums = SumRecorder(teacher_layer, parts.output_norm)
        teacher_states = [run_layer(teacher_layer, states, batch) for states, batch in zip(teacher_states, batches, strict=True)]
        target_sums = attention_sums.take()
        if skipped_layers or size.heads * components < linear(layer, parts.attention_output).in_features:
            moments = moments_of(
                layer, parts.attention_output, parts.attention_norm, student_states, batches, target_sums, is_last=is_last
            )
            retained = moments.retained_units(components, size.heads)
            keep_heads(layer, parts, retained)
            set_linear(linear(layer, parts.attention_output), *moments.fit_weights(retained))
        moments = moments_of(layer, parts.outer, parts.output_norm, student_states, batches, output_sums.take(), is_last=is_last)
        retained = moments.retained_units(1, size.units)
        keep_units(layer, parts, retained)
        set_linear(linear(layer, parts.outer), *moments.fit_weights(retained))
        student_states = [run_layer(layer, states, batch) for states, batch in zip(student_states, batches, strict=True)]
    return True
