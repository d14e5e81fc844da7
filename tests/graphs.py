"""Small ONNX graphs with the engine's signature, as a stranger could put them into an artifact."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
ANSWER = [
    helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node("ReduceSum", ["floats", "axis"], ["logits"], name="answer", keepdims=1),
]
"""The sum of a row's token ids."""


def constant(name: str, *values: float, dtype: Any = np.int64) -> TensorProto:
    """A named tensor: a vector, or a scalar for one value with the dtype's own shape."""
    return numpy_helper.from_array(np.array(values, dtype), name)


def model(*nodes: Any, answer: Any = ANSWER, initializers: Any = (), opsets: Any = OPSETS, functions: Any = ()) -> ModelProto:
    """input_ids int64[batch, width] -> logits float32[batch, 1], by `nodes` and then `answer`."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "width"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph([*nodes, *answer], "graph", [ids], [logits], [constant("axis", 1), *initializers])
    return helper.make_model(graph, opset_imports=list(opsets), functions=list(functions), ir_version=10)


def external_tensor(name: str = "weights") -> TensorProto:
    """A tensor whose values lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../secret")
    return tensor


def sparse_tensor(length: int = 1 << 40) -> Any:
    """One value in a vector of `length`."""
    return helper.make_sparse_tensor(constant("values", 1.0, dtype=np.float32), constant("indices", 0), [length])


def endless_loop() -> ModelProto:
    """A Loop without a limit whose condition stays true."""
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
    """Local functions that each call the one below them twice: 2**depth nodes once onnxruntime has put them in place."""
    functions = []
    for level in range(depth):
        inner, domain = (f"f{level - 1}", "laughs") if level else ("Identity", "")
        calls = [helper.make_node(inner, ["x"], ["y"], domain=domain), helper.make_node(inner, ["y"], ["z"], domain=domain)]
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("laughs", 1)]
        functions.append(helper.make_function("laughs", f"f{level}", ["x"], ["z"], calls, imports))
    call = helper.make_node(f"f{depth - 1}", ["input_ids"], ["unread"], domain="laughs")
    return model(call, functions=functions, opsets=[*OPSETS, helper.make_opsetid("laughs", 1)])
