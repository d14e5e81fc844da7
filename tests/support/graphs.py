"""Small ONNX graphs with the engine's signature, as an attacker could put them into an artifact."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
ANSWER = [
    helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node("ReduceSum", ["floats", "axis"], ["logits"], name="answer", keepdims=1),
]
"""Nodes that output the sum of a row's token ids."""


def constant(name: str, *values: float, dtype: Any = np.int64) -> TensorProto:
    """A named vector."""
    return numpy_helper.from_array(np.array(values, dtype), name)


def model(*nodes: Any, answer: Any = ANSWER, initializers: Any = (), opsets: Any = OPSETS, functions: Any = ()) -> ModelProto:
    """input_ids int64[batch, width] -> logits float32[batch, 1], by `nodes` and then `answer`."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "width"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph([*nodes, *answer], "graph", [ids], [logits], [constant("axis", 1), *initializers])
    return helper.make_model(graph, opset_imports=list(opsets), functions=list(functions), ir_version=10)


def external_tensor(name: str = "weights") -> TensorProto:
    """A tensor whose values are in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../secret")
    return tensor


def sparse_tensor(length: int = 1 << 40) -> Any:
    """A sparse vector of `length` with one value."""
    return helper.make_sparse_tensor(constant("values", 1.0, dtype=np.float32), constant("indices", 0), [length])


def endless_loop() -> ModelProto:
    """A Loop without a trip count whose condition stays true."""
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    go = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    ids, same = (helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in ("ids", "same"))
    on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    nodes = [helper.make_node("Identity", [old], [new]) for old, new in (("go", "on"), ("ids", "same"))]
    body = helper.make_graph(nodes, "body", [turn, go, ids], [on, same])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    loop = helper.make_node("Loop", ["", "true", "input_ids"], ["spun"], name="spin", body=body)
    answer = [helper.make_node("Cast", ["spun"], ["floats"], to=TensorProto.FLOAT), ANSWER[1]]
    return model(loop, answer=answer, initializers=[true])


def billion_laughs(depth: int = 30) -> ModelProto:
    """Local functions that each call the one below twice: 2**depth nodes once onnxruntime has inlined them."""
    functions = []
    for level in range(depth):
        inner, domain = (f"f{level - 1}", "laughs") if level else ("Identity", "")
        calls = [helper.make_node(inner, ["x"], ["y"], domain=domain), helper.make_node(inner, ["y"], ["z"], domain=domain)]
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("laughs", 1)]
        functions.append(helper.make_function("laughs", f"f{level}", ["x"], ["z"], calls, imports))
    call = helper.make_node(f"f{depth - 1}", ["input_ids"], ["unread"], domain="laughs")
    return model(call, functions=functions, opsets=[*OPSETS, helper.make_opsetid("laughs", 1)])


def scalar(name: str, value: int) -> TensorProto:
    """A named int64 scalar."""
    return numpy_helper.from_array(np.array(value, np.int64), name)


def summed(*nodes: Any, initializers: Any = ()) -> ModelProto:
    """`nodes`, one of which outputs `last`, int64 with two dimensions, followed by the sum of each row."""
    return model(
        *nodes, answer=[helper.make_node("Cast", ["last"], ["floats"], to=TensorProto.FLOAT), ANSWER[1]], initializers=initializers
    )


def one(op_type: str, *inputs: str, initializers: Any = (), **attributes: Any) -> ModelProto:
    """One operator between input_ids and the sum of each row."""
    return summed(helper.make_node(op_type, ["input_ids", *inputs], ["last"], **attributes), initializers=initializers)


def looked_up(tensor: TensorProto) -> ModelProto:
    """input_ids plus the first value of `tensor`, which is named table."""
    first = helper.make_node("Gather", ["table", "zero"], ["first"])
    return summed(first, helper.make_node("Add", ["input_ids", "first"], ["last"]), initializers=[tensor, scalar("zero", 0)])


FAILING_AT_LOAD = {
    "types that differ": one("Add", "half", initializers=[constant("half", 0.5, dtype=np.float32)]),
    "undefined input": one("Add", "nowhere"),
    "unknown operator": one("NoSuchOperator"),
    "operator without kernel": summed(
        helper.make_node("ImageDecoder", ["image"], ["picture"]),
        helper.make_node("Identity", ["input_ids"], ["last"]),
        initializers=[constant("image", 1, dtype=np.uint8)],
    ),
    "shapes that do not fit": one("Transpose", perm=[0, 5]),
    "weights shorter than their shape": looked_up(
        TensorProto(name="table", data_type=TensorProto.INT64, dims=[1 << 40], raw_data=bytes(8))
    ),
    "shape beyond 64 bits": looked_up(
        TensorProto(name="table", data_type=TensorProto.INT64, dims=[1 << 32, 1 << 32, 4], raw_data=bytes(8))
    ),
    "division by a constant 0": one("Div", "zero", initializers=[constant("zero", 0)]),
}
"""Graphs that pass check_graph but that onnxruntime fails to load."""

FAILING_AT_RUN = {
    "token id beyond the table": summed(
        helper.make_node("Gather", ["table", "input_ids"], ["last"]), initializers=[constant("table", 0)]
    ),
    "shape of another size": one("Reshape", "shape", initializers=[constant("shape", 7, 11)]),
    "sum of other widths": one("Add", "seven", initializers=[constant("seven", *range(7))]),
    "step of 0": one("Slice", "zero", "zero", "zero", "zero", initializers=[constant("zero", 0)]),
    "expansion to petabytes": one("Expand", "shape", initializers=[constant("shape", 1 << 50, 1, 3)]),
    "range to exabytes": summed(
        helper.make_node("Range", ["from", "to", "by"], ["numbers"]),
        helper.make_node("Add", ["input_ids", "numbers"], ["last"]),
        initializers=[scalar("from", 0), scalar("to", 1 << 60), scalar("by", 1)],
    ),
}
"""Graphs that load but fail on input_ids of two rows and three columns."""

ANSWERING_OTHERWISE = {
    "no dimension of labels": model(answer=[ANSWER[0], helper.make_node("ReduceSum", ["floats", "axis"], ["logits"], keepdims=0)]),
    "a label a token": model(answer=[helper.make_node("Cast", ["input_ids"], ["logits"], to=TensorProto.FLOAT)]),
    "no row": model(
        helper.make_node("Slice", ["input_ids", "zero", "zero"], ["none"]),
        answer=[helper.make_node("Cast", ["none"], ["floats"], to=TensorProto.FLOAT), ANSWER[1]],
        initializers=[constant("zero", 0)],
    ),
}
"""Graphs that declare logits [batch, 1], run, and output another shape."""
