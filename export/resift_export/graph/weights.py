"""Weights of graphs in files beside them: a message of protobuf, which a graph's file is, cannot hold 2 GB.

An export writes the float32 weights once, to its scratch folder. From then on the graph's tensors are mapped from there, and so are
those of every session that is opened to look into it: memory holds no second copy.
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

MOST_INSIDE = 2_000_000_000
"""Largest size in bytes of the weights that a graph's file holds itself; protobuf's limit of 2**31 - 1 leaves the rest to nodes."""
SHARED_BYTES = 1_000_000
"""Least size in bytes of a tensor that two graphs share: less is not worth a look into another file."""
ALIGNMENT = 4096
"""Tensors begin at a multiple of this many bytes, a page, so that they can be mapped into memory."""


def save(model: ir.Model, path: Path) -> list[Path]:
    """Writes the graph to `path`, with its weights inside if they have at most MOST_INSIDE bytes, and returns what it wrote."""
    if sum(tensor.nbytes for tensor in _tensors(model)) > MOST_INSIDE:
        return [path, save_outside(model, path)]
    path.write_bytes(serialize(_inside(model)))
    return [path]


def save_sharing(model: ir.Model, path: Path, lender: Path) -> bool:
    """Writes the graph to `path`, less the large weights that are in `lender`, a file of the same folder, to the bit.

    These are read from there, the others are inside. False if `lender` has none, or if the others are too large to be inside: then
    nothing is written.
    """
    whole = _inside(model)
    shared = 0
    with lender.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for value in whole.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= SHARED_BYTES and (place := content.find(tensor.tobytes())) >= 0:
                shared += 1
                value.const_value = ir.ExternalTensor(
                    lender.name,
                    place,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                    base_dir=lender.parent,
                )
    inside = sum(tensor.nbytes for tensor in _tensors(whole) if not isinstance(tensor, ir.ExternalTensor))
    if not shared or inside > MOST_INSIDE:
        return False
    path.write_bytes(serialize(whole))
    return True


def _inside(model: ir.Model) -> ir.Model:
    """A copy of the graph whose weights are no longer mapped from files."""
    whole = model.clone()
    for value in whole.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    return whole


def save_outside(model: ir.Model, path: Path) -> Path:
    """Writes the graph to `path` and its weights to a file beside it, whose path is returned."""
    beside = path.with_name(f"{path.name}{WEIGHTS_SUFFIX}")
    ir.save(
        model,
        path,
        external_data=beside.name,
        size_threshold_bytes=SMALLEST_WEIGHTS - 1,
        alignment=ALIGNMENT,
        align_threshold=0,
    )
    return beside


def _tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    return [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]


def on_disk(model: ir.Model, scratch: Path, name: str = "float32") -> ir.Model:
    """The same graph with its weights mapped from files of that name in `scratch`, which must outlive it.

    Raises ExportError if they cannot be written.
    """
    path = scratch / f"{name}.onnx"
    try:
        save_outside(model, path)
    except OSError as error:
        raise ExportError(f"cannot write the float32 weights next to the artifact, to {path}: {error.strerror}") from error
    return ir.load(path)


def open_session(model: ir.Model, scratch: Path, outputs: Sequence[str] = ()) -> onnxruntime.InferenceSession:
    """A session on the CPU that outputs the named values of the graph; without names, what the graph outputs.

    Weights that `on_disk` put into `scratch` are mapped from there.
    """
    observed = model.clone()
    if outputs:
        values = {value.name: value for node in observed.graph for value in node.outputs}
        observed.graph.outputs[:] = [values[name] for name in outputs]
    path = scratch / "session.onnx"
    if sum(tensor.nbytes for tensor in _tensors(observed) if not isinstance(tensor, ir.ExternalTensor)) > MOST_INSIDE:
        save_outside(observed, path)
    else:
        ir.save(observed, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    # The lengths of the pairs differ: memory would be kept for each of them.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    # Packed weights would be a copy of all of them.
    options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
