"""device: where a distillation computes, and in which number format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from resift.errors import InputError
from resift.machine import instruction_sets

if TYPE_CHECKING:
    from resift_export.distill.options import Dtype

Device = Literal["auto", "cpu", "cuda"]


def device_of(device: Device) -> torch.device:
    """The torch device; "auto" is CUDA if available. Raises InputError if `device` is "cuda" and torch finds no GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch finds none; expected a CUDA GPU and a torch built for it, or use --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def fast_dtype(device: torch.device) -> Dtype:
    """bfloat16 if the device multiplies it faster than float32: GPUs that support it, and CPUs with AMX or AVX-512's bfloat16.

    On CPUs with other parts of AVX-512 only, it was slower. Processors with AMX support it for both int8 and bfloat16.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if {"amx_int8", "avx512_bf16"} & instruction_sets() else "float32"
