"""trace: converts a PyTorch model to an ONNX graph.

The graph has the inputs [batch, width] and the output [batch, labels] of the checkpoint's signature. It has no attention mask,
because the engine never pads.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch

from resift.artifact.signature import OUTPUT
from resift.errors import ExportError, ExtraError, first_line
from resift_export.graph.edit import insert, tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resift_export.checkpoint.load import Checkpoint

OPSET = 23
"""The first opset with the Attention operator, which keeps scaled dot-product attention in one node."""
MAX_FOLDED_BYTES = 1 << 28
"""Largest constant, in bytes, that is computed from other constants at export and not with every batch. With its own limits of 8
and 256 kB, the optimizer kept the projections of DeBERTa-v3's relative positions: 1.2 billion operations per layer and batch."""
EXAMPLE_SHAPE = (2, 8)
"""Batch size and width of the example that is traced; both stay dynamic in the graph."""


def trace(checkpoint: Checkpoint) -> ir.Model:
    """Traces with torch.onnx.export. Raises ExportError if the model cannot be traced with dynamic batch size and width."""
    return trace_network(
        checkpoint.network(), example_of(checkpoint, EXAMPLE_SHAPE), OUTPUT, checkpoint.architecture, "; try --tracer optimum"
    )


def example_of(checkpoint: Checkpoint, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The inputs of the checkpoint's signature, int64 of that shape."""
    return {name: torch.full(shape, 5 if name == "input_ids" else 0) for name in checkpoint.signature.inputs}


def trace_network(
    network: torch.nn.Module, example: Mapping[str, torch.Tensor], output: str, what: str, ways_out: str = ""
) -> ir.Model:
    """The graph of a network from inputs, by position, to one `output`. The first two axes of each input are dynamic.

    `example`: inputs by name, whose first two sizes are 2 or more. `what` names the network in messages, which end with `ways_out`.
    Raises ExportError if it cannot be traced.
    """
    axes = {name: dict.fromkeys(range(min(tensor.ndim, 2)), torch.export.Dim.DYNAMIC) for name, tensor in example.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network,
                tuple(example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(example),
                output_names=[output],
                dynamic_shapes=(tuple(axes.values()),),
                verbose=False,
                # The exporter's optimizer fuses ModernBERT's rotary embedding incorrectly for batches larger than one.
                optimize=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
            raise ExportError(f"torch {torch.__version__} cannot trace {what}: {first_line(error)}{ways_out}") from error
    assert program is not None
    model = program.model
    onnxscript.optimizer.optimize(model, input_size_limit=MAX_FOLDED_BYTES, output_size_limit=MAX_FOLDED_BYTES)
    return model


def trace_with_optimum(checkpoint: Checkpoint) -> ir.Model:
    """Traces with optimum's exporter, which supports a list of architectures; inputs without a use become constants.

    It reads the checkpoint's files, so heads and inner units that contribute nothing stay.

    Raises ExtraError if the extra `optimum` is missing, ExportError if optimum cannot trace the model.
    """
    if checkpoint.is_modular or checkpoint.label is not None:
        raise ExportError(
            f"optimum traces only the model of {checkpoint.id}, without its other modules or the choice of a label; "
            "leave --tracer optimum out"
        )
    try:
        from optimum.exporters.onnx import main_export
    except ImportError as error:
        raise ExtraError("--tracer optimum needs optimum's exporter: pip install 'resift[optimum]'") from error
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main_export(str(checkpoint.folder), folder, task="text-classification", do_validation=False, local_files_only=True)
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise ExportError(f"optimum cannot trace {checkpoint.folder}: {first_line(error)}") from error
        model = ir.load(Path(folder) / "model.onnx")
        ir.external_data.load_to_model(model)
    _fill_input(model, "attention_mask", 1)
    if not checkpoint.signature.segment_ids:
        _fill_input(model, "token_type_ids", 0)
    tidy(model)
    return model


def _fill_input(model: ir.Model, name: str, number: int) -> None:
    """Replaces the input `name`, if there is one, by that number at each token of input_ids."""
    inputs = {value.name: value for value in model.graph.inputs}
    replaced = inputs.get(name)
    if replaced is None:
        return
    first = next(iter(model.graph))
    shape = insert(model, first, "Shape", [inputs["input_ids"]], f"{name}_shape")
    constant = ir.node("ConstantOfShape", [shape], attributes={"value": ir.tensor(np.full(1, number, np.int64))})
    constant.outputs[0].name = f"{name}_constant"
    model.graph.insert_before(first, constant)
    replaced.replace_all_uses_with(constant.outputs[0])
    model.graph.inputs.remove(replaced)


TRACERS: dict[str, Callable[[Checkpoint], ir.Model]] = {"torch": trace, "optimum": trace_with_optimum}
logging.getLogger("torch.onnx").setLevel(logging.ERROR)
