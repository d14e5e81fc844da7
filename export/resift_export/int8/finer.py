"""finer: an int8 graph in which some products are computed with 16-bit activations and weights of some 11 bits.

An activation is the sum of two quantized ones, `coarse` and `fine`, and a matrix the sum of the levels of the int8 graph, which the
new graph reads from that graph's file, and of remainders: the place within a level's step, in 4 bits. A product is then the sum of
three int8 products: of coarse and levels, fine and levels, coarse and remainders; that of fine and remainders is below the noise.
onnxruntime unpacks the remainders when it loads the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from resift.errors import ExportError
from resift_export.graph.edit import CONTRIB, array_of, constant, insert, replace, tidy
from resift_export.int8.levels import WEIGHT_LEVELS
from resift_export.int8.products import products

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

WIDER = 1.5
"""How much wider the range of an activation is than in the int8 graph, where the search for a range may have clipped it."""
BITS = 4
STEPS = 7
"""Largest magnitude of a remainder."""
CENTRE = 8
"""What is added to a remainder, so that none is negative."""
COLUMN_SHARE = 128
"""One in so many columns, those with the largest scales, has remainders of 7 bits. A column's scale is set by its largest weight:
in MiniLM, one column of a layer's last matrix has 70 to 95 % of the squared error that remainders of 4 bits leave."""
FEW_ROWS = 2048
"""Tables of at most so many rows, such as those of positions, get remainders; those of token ids would take too much space."""
FINE_STEPS, FINE_CENTRE = 127, 128
"""Largest magnitude and zero point of the fine part of an activation."""
WEIGHTS, ROWS, SMOOTHED = "_weights", "_rows", "_smoothed"
"""What `quantize` adds to the name of a product or a table in the name of its levels, and to an activation's that it smooths."""


def int8_products(model: ir.Model) -> dict[str, ir.Node]:
    """The int8 products of the graph by the names that they had in float32, in the graph's order."""
    return {_name(node, 1, WEIGHTS): node for node in model.graph if node.op_type == "MatMulIntegerToFloat"}


def exact_weights(model: ir.Model) -> dict[str, NDArray[np.float32]]:
    """The matrices of a float32 graph's products, and its tables, by the names of their outputs."""
    found = {product.name: product.weights for product in products(model)}
    for node in model.graph:
        table = array_of(node.inputs[0]) if node.op_type == "Gather" else None
        if table is not None and table.ndim == 2:
            found[str(node.outputs[0].name)] = table
    return found


def refine(model: ir.Model, exact: Mapping[str, NDArray[np.float32]], names: Collection[str]) -> ir.Model:
    """A copy of the int8 graph `model` whose products `names`, and small tables, are closer to float32.

    `exact` holds their weights, see `exact_weights`. Raises ExportError if it lacks one of a product's shape. Levels that were not
    made from these weights give a graph that is no closer, which the gate then refuses.
    """
    refined = model.clone()
    activations: dict[str, tuple[_Quantized, _Quantized]] = {}
    for name, node in int8_products(refined).items():
        if name in names:
            quantized = node.inputs[0]
            assert quantized is not None
            key = str(quantized.name)
            activations[key] = activations.get(key) or _split(refined, quantized)
            _refine_product(refined, name, node, _weights_of(exact, name, node.inputs[1]), *activations[key])
    for node in [node for node in refined.graph if node.op_type == "Gather" and _is_small_table(node)]:
        _refine_table(refined, node, _weights_of(exact, _name(node, 0, ROWS), node.inputs[0]))
    tidy(refined)
    for value in (value for node in refined.graph for value in node.outputs if not value.is_graph_output()):
        value.type = value.shape = None  # onnxruntime infers them; stored, they would be a share of the file
    return refined


class _Quantized:
    """A quantized activation with its scale and zero point."""

    def __init__(  # noqa: PLR0913 - a place in a graph, and what is quantized there
        self, model: ir.Model, before: ir.Node, source: ir.Value, name: str, scale: float, zero_point: int
    ) -> None:
        self.scale = constant(model, f"{name}_scale", np.array(scale, np.float32))
        self.zero_point = constant(model, f"{name}_zero_point", np.array(zero_point, np.uint8))
        self.levels = insert(model, before, "QuantizeLinear", [source, self.scale, self.zero_point], f"{name}_levels")


def _split(model: ir.Model, quantized: ir.Value) -> tuple[_Quantized, _Quantized]:
    """The coarse and the fine part of an activation that the int8 graph quantizes to `quantized`."""
    quantizer = quantized.producer()
    assert quantizer is not None
    source, scale, zero_point = quantizer.inputs[0], array_of(quantizer.inputs[1]), array_of(quantizer.inputs[2])
    assert source is not None
    assert scale is not None
    assert zero_point is not None
    step, name = WIDER * float(scale), str(quantized.name)
    coarse = _Quantized(model, quantizer, source, f"{name}_coarse", step, int(zero_point))
    rounded = insert(model, quantizer, "DequantizeLinear", [coarse.levels, coarse.scale, coarse.zero_point], f"{name}_rounded")
    rest = insert(model, quantizer, "Sub", [source, rounded], f"{name}_rest")
    return coarse, _Quantized(model, quantizer, rest, f"{name}_fine", step / (2 * FINE_STEPS), FINE_CENTRE)


def _refine_product(  # noqa: PLR0913 - a product, its weights and the two parts of its activation
    model: ir.Model, name: str, node: ir.Node, exact: NDArray[np.float32], coarse: _Quantized, fine: _Quantized
) -> None:
    levels, scales, bias = node.inputs[1], node.inputs[3], node.inputs[6] if len(node.inputs) > 6 else None
    level_array, scale_array = array_of(levels), array_of(scales)
    assert level_array is not None
    assert scale_array is not None
    smoothing = _smoothing_of(node)
    places = (exact if smoothing is None else exact / smoothing[:, None]) / scale_array - level_array
    columns = np.sort(np.argsort(-scale_array, kind="stable")[: exact.shape[1] // COLUMN_SHARE])
    centres, steps = np.full(exact.shape[1], CENTRE, np.int8), np.full(exact.shape[1], STEPS, np.float32)
    centres[columns], steps[columns] = 0, WEIGHT_LEVELS
    unpacked = _remainders(model, node, name, remainders(places, STEPS))
    rest = insert(model, node, "Cast", [unpacked], f"{name}_signed", {"to": int(ir.DataType.INT8)})
    if len(columns):
        indices = constant(model, f"{name}_columns", columns[None].astype(np.int64))
        shape = constant(model, f"{name}_shape", np.array([len(exact), len(columns)]))
        wide = insert(model, node, "Expand", [indices, shape], f"{name}_places")
        values = constant(model, f"{name}_fine_remainders", remainders(places[:, columns], WEIGHT_LEVELS))
        rest = insert(model, node, "ScatterElements", [rest, wide, values], f"{name}_all_remainders", {"axis": 1})
    rest_scales = constant(model, f"{name}_rest_scales", np.asarray(scale_array / (2 * steps), np.float32))
    rest_centres = constant(model, f"{name}_rest_centres", centres)

    def product(
        part: _Quantized, weights: ir.Value | None, scale: ir.Value | None, centre: ir.Value | None, label: str
    ) -> ir.Value:
        offset = bias if label == "main" else None
        inputs = [part.levels, weights, part.scale, scale, part.zero_point, centre, offset]
        return insert(model, node, "MatMulIntegerToFloat", inputs, f"{name}_{label}", domain=CONTRIB)

    main = product(coarse, levels, scales, None, "main")
    small = insert(
        model,
        node,
        "Add",
        [product(fine, levels, scales, None, "fine"), product(coarse, rest, rest_scales, rest_centres, "rest")],
        f"{name}_small",
    )
    replace(node.outputs[0], insert(model, node, "Add", [main, small], f"{name}_refined"))


def _refine_table(model: ir.Model, node: ir.Node, exact: NDArray[np.float32]) -> None:
    """Adds remainders to the rows of a table that `quantize` made, which are gathered, cast and multiplied by their scales."""
    (use,) = node.outputs[0].uses()
    cast = use.node
    (use,) = cast.outputs[0].uses()
    gathered = use.node.inputs[1 - use.idx]
    scale_node = None if gathered is None else gathered.producer()
    assert scale_node is not None
    levels, scales = array_of(node.inputs[0]), array_of(scale_node.inputs[0])
    assert levels is not None
    assert scales is not None
    name, ids = _name(node, 0, ROWS), node.inputs[1]
    rows = _remainders(model, node, name, remainders(exact / scales - levels, STEPS))
    row = insert(model, use.node, "Gather", [rows, ids], f"{name}_row_remainders")
    to_float = {"to": int(ir.DataType.FLOAT)}
    centred = insert(
        model,
        use.node,
        "Sub",
        [
            insert(model, use.node, "Cast", [row], f"{name}_row_steps", to_float),
            _shared(model, "centre", np.array(CENTRE, np.float32)),
        ],
        f"{name}_row_centred",
    )
    step = _shared(model, "step", np.array(1 / (2 * STEPS), np.float32))
    part = insert(model, use.node, "Mul", [centred, step], f"{name}_row_part")
    use.node.replace_input_with(use.idx, insert(model, use.node, "Add", [cast.outputs[0], part], f"{name}_row_place"))


def _remainders(model: ir.Model, before: ir.Node, name: str, steps: NDArray[np.int8]) -> ir.Value:
    """uint8[rows, columns]: the remainders plus CENTRE, unpacked from two in a byte."""
    packed = constant(model, f"{name}_remainders", pack(steps))
    low = insert(model, before, "BitwiseAnd", [packed, _shared(model, "mask", np.array(15, np.uint8))], f"{name}_low")
    shift = _shared(model, "shift", np.array(BITS, np.uint8))
    high = insert(model, before, "BitShift", [packed, shift], f"{name}_high", {"direction": "RIGHT"})
    unpacked = insert(model, before, "Concat", [low, high], f"{name}_unpacked", {"axis": 0})
    if len(steps) % 2 == 0:
        return unpacked
    ends = [constant(model, f"{name}_{label}", np.array([end])) for label, end in (("first", 0), ("end", len(steps)))]
    return insert(model, before, "Slice", [unpacked, *ends], f"{name}_rows_unpacked")


def remainders(places: NDArray[np.float32], largest: int) -> NDArray[np.int8]:
    """`places` within a level's step, -0.5 to 0.5, as -`largest` to `largest`; those outside as its ends."""
    found: NDArray[np.int8] = np.clip(np.rint(places * 2 * largest), -largest, largest).astype(np.int8)
    return found


def pack(steps: NDArray[np.int8]) -> NDArray[np.uint8]:
    """uint8, two rows in one, plus CENTRE: the first half of the rows in the lower bits, the second half in the upper ones."""
    half, centred = (len(steps) + 1) // 2, (steps + CENTRE).astype(np.uint8)
    upper = np.zeros_like(centred[:half])
    upper[: len(steps) - half] = centred[half:]
    return np.asarray(centred[:half] | upper << BITS, np.uint8)


def _smoothing_of(node: ir.Node) -> NDArray[np.float32] | None:
    """The factors by which an int8 product's activation is smoothed."""
    quantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
    source = None if quantizer is None else quantizer.inputs[0]
    if source is None or not str(source.name).endswith(SMOOTHED):
        return None
    smoother = source.producer()
    return None if smoother is None else array_of(smoother.inputs[1])


def _is_small_table(node: ir.Node) -> bool:
    levels = array_of(node.inputs[0])
    return levels is not None and levels.dtype == np.int8 and len(levels) <= FEW_ROWS


def _weights_of(exact: Mapping[str, NDArray[np.float32]], name: str, levels: ir.Value | None) -> NDArray[np.float32]:
    array = array_of(levels)
    shape = None if array is None else array.shape
    if name not in exact or exact[name].shape != shape:
        found = f"of the shape {exact[name].shape}" if name in exact else "not"
        raise ExportError(
            f"the int8 graph has {name} of the shape {shape}, which the checkpoint's graph has {found}; leave --keep out"
        )
    return exact[name]


def _shared(model: ir.Model, label: str, value: NDArray[np.generic]) -> ir.Value:
    """A constant that all remainders of the graph share."""
    found = model.graph.initializers.get(f"remainder_{label}")
    return found if found is not None else constant(model, f"remainder_{label}", value)


def _name(node: ir.Node, index: int, suffix: str) -> str:
    value = node.inputs[index]
    return "" if value is None else str(value.name).removesuffix(suffix)
