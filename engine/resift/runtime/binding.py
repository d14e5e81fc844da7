"""Binding: runs a session with all inputs copied to its device in one piece.

onnxruntime's Python API has no pinned memory for the CUDA provider that a wheel holds, so the copy starts from ordinary memory; the
inputs of a batch of 32,768 tokens are 0.8 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resift.runtime.providers import runtime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Device(NamedTuple):
    """Where a session's inputs lie, as onnxruntime names it."""

    kind: str
    number: int = 0


ALIGNMENT = 32
"""Numbers, of 8 bytes each: every input begins at a multiple of 256 bytes, as in memory that CUDA itself gives out."""


def run(session: Any, inputs: Mapping[str, NDArray[np.int64]], output: str, device: Device) -> Any:
    """The output of that name, on the CPU. Raises what onnxruntime does."""
    starts = np.cumsum([0] + [-(-array.size // ALIGNMENT) * ALIGNMENT for array in inputs.values()]).tolist()
    together = np.zeros(starts[-1], np.int64)
    for start, array in zip(starts, inputs.values(), strict=False):
        together[start : start + array.size] = array.ravel()
    copied = runtime().OrtValue.ortvalue_from_numpy(together, *device)
    binding, address = session.io_binding(), copied.data_ptr()
    for start, (name, array) in zip(starts, inputs.items(), strict=False):
        binding.bind_input(name, *device, array.dtype.type, array.shape, address + start * together.itemsize)
    binding.bind_output(output, "cpu")
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0]
