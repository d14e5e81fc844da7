"""Attention of com.microsoft in numpy, for onnx's reference evaluator: what its documentation says that the operators compute.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def evaluate(model, inputs):
    """The outputs of a graph, computed without onnxruntime."""
    return ReferenceEvaluator(model, new_ops=[GatherElements, MultiHeadAttention, PackedMultiHeadAttention]).run(None, inputs)


def attend(query, key, value, heads, scale, bias=0.0):
    """[queries, heads * size] from [queries, heads * size] and [keys, heads * size]; summed in float32."""
    query, key, value = (array.reshape(len(array), heads, -1).swapaxes(0, 1).astype(np.float32) for array in (query, key, value))
    weights = query @ key.swapaxes(1, 2) * (scale or query.shape[-1] ** -0.5) + bias
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    found = weights / weights.sum(-1, keepdims=True) @ value
    return found.swapaxes(0, 1).reshape(found.shape[1], -1)


class PackedMultiHeadAttention(OpRun):
    """Inputs: query, key and value [tokens, heads * size], none, places [b, width] of tokens and then of padding, ends [b + 1]."""

    op_domain = "com.microsoft"

    def _run(self, query, key, value, bias, offset, ends, attention_bias=None, num_heads=None, scale=None, mask_filter_value=None):
        assert bias is None
        assert attention_bias is None
        assert offset.dtype == ends.dtype == np.int32
        batch, width = offset.shape
        assert query.shape == key.shape == value.shape
        assert len(query) == ends[-1]
        assert (ends[0], len(ends)) == (0, batch + 1)
        lengths = np.diff(ends)
        places = np.concatenate([np.arange(length) + row * width for row, length in enumerate(lengths)])
        padding = np.setdiff1d(np.arange(batch * width), places)
        assert offset.ravel().tolist() == [*places, *padding]
        rows = [slice(*row) for row in pairwise(ends)]
        found = np.concatenate([attend(query[row], key[row], value[row], num_heads, scale) for row in rows])
        return (found.astype(query.dtype),)


class MultiHeadAttention(OpRun):
    """Inputs: query, key and value [b, width, heads * size], none, lengths of keys [3 * b + 2], a bias [b, 1, queries, keys]."""

    op_domain = "com.microsoft"

    def _run(self, query, key, value, bias=None, lengths=None, attention_bias=None, num_heads=None, scale=None):
        assert bias is None
        found = []
        for row in range(len(query)):
            length = key.shape[1] if lengths is None else lengths[row]
            added = 0.0 if attention_bias is None else attention_bias[row].astype(np.float32)
            found.append(attend(query[row], key[row, :length], value[row, :length], num_heads, scale, added))
        return (np.stack(found).astype(query.dtype),)


class GatherElements(OpRun):
    """The evaluator's own takes at most 64 numbers a row."""

    def _run(self, data, indices, axis=0):
        return (np.take_along_axis(data, indices, axis),)
