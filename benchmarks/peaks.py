"""Peaks: what one core of this machine reaches in onnxruntime's products and in copies, to set beside what a graph reaches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resift.runtime.providers import POLICIES, runtime

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = ((256, 384, 1536), (256, 768, 768), (256, 1024, 1024), (256, 2048, 512))
"""Rows, inputs and outputs of the products of which the fastest counts as the peak."""
REPEATS = 30
IN_CACHE, IN_MEMORY = 1 << 18, 1 << 27
"""Bytes that are copied: what a core's second cache holds twice, and more than the caches of a processor."""
GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Peaks:
    """Rates of one core."""

    int8: float
    """operations a second in products of uint8 activations and int8 weights; a multiplication and an addition are two"""
    float32: float
    """operations a second in float32 products"""
    cache: float
    """bytes a second, read and written, in copies of IN_CACHE bytes"""
    memory: float
    """bytes a second, read and written, in copies of IN_MEMORY bytes"""

    @classmethod
    def measure(cls, shapes: tuple[tuple[int, int, int], ...] = SHAPES, repeats: int = REPEATS) -> Peaks:
        """The best of `repeats` runs of each product and of each copy."""
        return cls(
            int8=max(_product_rate(_int8_product, shape, repeats) for shape in shapes),
            float32=max(_product_rate(_float32_product, shape, repeats) for shape in shapes),
            cache=_copy_rate(IN_CACHE, repeats * 10),
            memory=_copy_rate(IN_MEMORY, max(1, repeats // 6)),
        )

    def in_words(self) -> str:
        return (
            f"peaks of one core: {self.int8 / GIGA:.0f} GOP/s int8, {self.float32 / GIGA:.0f} GOP/s float32, "
            f"{self.cache / GIGA:.0f} GB/s in cache, {self.memory / GIGA:.0f} GB/s in memory"
        )


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    """Of the fastest run; a first one warms up."""
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def _copy_rate(size: int, repeats: int) -> float:
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    return 2 * size / _seconds(lambda: np.copyto(target, source), repeats)


def _product_rate(model_of: Callable[[int, int], onnx.ModelProto], shape: tuple[int, int, int], repeats: int) -> float:
    """Operations a second of [rows, inputs] x [inputs, outputs] in a session with the engine's options."""
    rows, inputs, outputs = shape
    model = model_of(inputs, outputs)
    session = runtime().InferenceSession(
        model.SerializeToString(), POLICIES["cpu"].options(), providers=["CPUExecutionProvider"], enable_fallback=0
    )
    kind = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    feed = {"x": np.random.default_rng(0).integers(0, 255, (rows, inputs)).astype(kind)}
    return 2 * rows * inputs * outputs / _seconds(lambda: session.run(None, feed), repeats)


def _int8_product(inputs: int, outputs: int) -> onnx.ModelProto:
    constants: dict[str, np.ndarray] = {
        "weights": np.random.default_rng(0).integers(-63, 64, (inputs, outputs)).astype(np.int8),
        "scale": np.array(0.1, np.float32),
        "scales": np.full(outputs, 0.1, np.float32),
        "zero_point": np.array(128, np.uint8),
        "bias": np.zeros(outputs, np.float32),
    }
    names = ["x", "weights", "scale", "scales", "zero_point", "", "bias"]
    node = helper.make_node("MatMulIntegerToFloat", names, ["y"], domain="com.microsoft")
    return _model(node, constants, TensorProto.UINT8)


def _float32_product(inputs: int, outputs: int) -> onnx.ModelProto:
    weights = np.random.default_rng(0).standard_normal((inputs, outputs)).astype(np.float32)
    return _model(helper.make_node("MatMul", ["x", "weights"], ["y"]), {"weights": weights}, TensorProto.FLOAT)


def _model(node: onnx.NodeProto, constants: dict[str, np.ndarray], kind: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", kind, ["rows", None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", None])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
