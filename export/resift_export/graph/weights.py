"""Weights of graphs in files beside them: a graph's file is a protobuf message, which cannot hold 2 GB.

An export writes the float32 weights once, to its scratch folder. Afterwards, the graph's tensors are mapped from there, and so are
those of every session that evaluates the graph: memory holds no second copy.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import onnx_ir as ir
import onnxruntime

from resift.artifact.manifest import WEIGHTS_SUFFIX
from resift.errors import ExportError
from resift.machine import usable_cores
from resift_export.graph.edit import SMALLEST_WEIGHTS, serialize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_INLINE_BYTES = 2_000_000_000
"""Largest size in bytes of the weights inside a graph's file; protobuf's limit of 2**31 - 1 leaves the rest for nodes."""
MIN_SHARED_BYTES = 1_000_000
"""Smallest size in bytes of a tensor that two graphs share: smaller ones do not justify reading another file."""
ALIGNMENT = 4096
"""Tensors begin at a multiple of this many bytes, a page, so that they can be mapped into memory."""


def save(model: ir.Model, path: Path) -> list[Path]:
    """Writes the graph to `path`, with its weights inside if they have at most MAX_INLINE_BYTES, and returns the written files."""
    if sum(tensor.nbytes for tensor in _tensors(model)) > MAX_INLINE_BYTES:
        return [path, save_with_external_weights(model, path)]
    path.write_bytes(serialize(_with_inline_weights(model)))
    return [path]


def save_with_shared_weights(model: ir.Model, path: Path, weights_paths: Sequence[Path], min_bytes: int | None = None) -> list[str]:
    """Writes the graph to `path` without the weights that one of `weights_paths`, files of the same folder, holds to the bit.

    The graph reads these from the first that does; the other weights are inside its file. `min_bytes`: size of the smallest tensor
    that is looked for; None: MIN_SHARED_BYTES. Returns the names of the files that it reads. If there are none, or if the other
    weights are too large to be inside, nothing is written and the list is empty.
    """
    model_copy = _with_inline_weights(model)
    least = MIN_SHARED_BYTES if min_bytes is None else min_bytes
    shared: list[str] = []
    for weights_path in weights_paths:
        with weights_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = [_share(value, weights_path, content) for value in _inline_initializers(model_copy, least)]
        shared += [weights_path.name] if any(found) else []
    inline_bytes = sum(tensor.nbytes for tensor in _tensors(model_copy) if not isinstance(tensor, ir.ExternalTensor))
    if not shared or inline_bytes > MAX_INLINE_BYTES:
        return []
    path.write_bytes(serialize(model_copy))
    return shared


def _inline_initializers(model: ir.Model, min_bytes: int) -> list[ir.Value]:
    """The initializers of at least so many bytes that are not in another file."""
    values = model.graph.initializers.values()
    tensors = ((value, value.const_value) for value in values)
    return [
        value
        for value, tensor in tensors
        if tensor is not None and tensor.nbytes >= min_bytes and not isinstance(tensor, ir.ExternalTensor)
    ]


def _share(value: ir.Value, path: Path, content: mmap.mmap) -> bool:
    """Lets an initializer read its weights from the file at `path` if its `content` has them; whether it has."""
    tensor = value.const_value
    assert tensor is not None
    offset = content.find(tensor.tobytes())
    if offset < 0:
        return False
    shape = ir.Shape(tensor.shape.numpy())
    value.const_value = ir.ExternalTensor(
        path.name, offset, tensor.nbytes, tensor.dtype, shape=shape, name=str(value.name), base_dir=path.parent
    )
    return True


def _with_inline_weights(model: ir.Model) -> ir.Model:
    """A copy of the graph whose weights are no longer mapped from files."""
    copied = model.clone()
    for value in copied.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    return copied


def save_with_external_weights(model: ir.Model, path: Path) -> Path:
    """Writes the graph to `path` and its weights to a file beside it, whose path is returned."""
    weights_path = path.with_name(f"{path.name}{WEIGHTS_SUFFIX}")
    ir.save(
        model,
        path,
        external_data=weights_path.name,
        size_threshold_bytes=SMALLEST_WEIGHTS - 1,
        alignment=ALIGNMENT,
        align_threshold=0,
    )
    return weights_path


def _tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    return [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]


def map_weights(model: ir.Model, scratch: Path, name: str = "float32") -> ir.Model:
    """The same graph with its weights mapped from files of that name in `scratch`, which must exist as long as the graph.

    Raises ExportError if they cannot be written.
    """
    path = scratch / f"{name}.onnx"
    try:
        save_with_external_weights(model, path)
    except OSError as error:
        raise ExportError(f"cannot write the float32 weights next to the artifact, to {path}: {error.strerror}") from error
    return ir.load(path)


def open_session(model: ir.Model, scratch: Path, outputs: Sequence[str] = ()) -> onnxruntime.InferenceSession:
    """A session on the CPU that outputs the named values of the graph, or the graph's own outputs if no names are passed.

    Weights that `map_weights` wrote to `scratch` are mapped from there.
    """
    observed = model.clone()
    if outputs:
        values = {value.name: value for node in observed.graph for value in node.outputs}
        observed.graph.outputs[:] = [values[name] for name in outputs]
    path = scratch / "session.onnx"
    if sum(tensor.nbytes for tensor in _tensors(observed) if not isinstance(tensor, ir.ExternalTensor)) > MAX_INLINE_BYTES:
        save_with_external_weights(observed, path)
    else:
        ir.save(observed, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    # The lengths of the pairs differ: onnxruntime would retain memory for each length.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    # Packed weights would be a copy of all of them.
    options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
