"""Material: what the benchmark reads, as files of at most 60 MB each, for a machine that can download nothing.

The checkpoint is stored as int8 with a scale for each row, 33 MB for MiniLM-L12, and everything is made from what it becomes when
it is read again: the artifact, onnxruntime's O4 graph and PyTorch's weights are of the same rounded checkpoint. Its matrices are
therefore left out of the graphs' files, and put back there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LARGEST = 60_000_000
"""Bytes of the largest file."""
SMALLEST_CUT = 100_000
"""Bytes of the smallest matrix that is left out of a file."""
LEVELS = 127
INDEX = "material.json"
ROUNDED = "checkpoint.int8.npz"
OPTIMIZED = "o4.onnx"
OPSET = 17


def write(checkpoint: Path, out: Path, further: list[Path]) -> None:
    """Writes the material of a checkpoint, which is a folder, into the new folder `out`, with copies of the `further` files.

    Needs the extra `export`. A wheel of onnxruntime-gpu, for instance, can be among the further files.
    """
    from resift_export.convert import convert
    from resift_export.recipe import Recipe

    out.mkdir(parents=True)
    work = out / "work"
    rounded = work / "checkpoint"
    rounded.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.suffix in (".json", ".txt", ".model"):
            shutil.copyfile(path, rounded / path.name)
    round_weights(checkpoint / "model.safetensors", work / ROUNDED)
    restore_weights(work / ROUNDED, rounded / "model.safetensors")
    convert(str(rounded), work / "artifact", Recipe(precisions=("float16",), packed=True), force=True)
    optimize(rounded, work / OPTIMIZED)
    (rounded / "model.safetensors").unlink()
    for path in further:
        shutil.copyfile(path, work / path.name)
    with np.load(work / ROUNDED) as stored:
        split(work, out, restored(stored))
    shutil.rmtree(work)


def read(material: Path, work: Path) -> Path:
    """The folder `work` with everything as it was before it was split, and the checkpoint's weights restored."""
    if not (work / "complete").exists():
        shutil.rmtree(work, ignore_errors=True)
        join(material, work)
        restore_weights(work / ROUNDED, work / "checkpoint" / "model.safetensors")
        (work / "complete").touch()
    return work


class Cut(NamedTuple):
    """Bytes of a file that are a matrix of the checkpoint."""

    start: int
    size: int
    matrix: str
    """its name, and _T where it is transposed"""


def split(folder: Path, out: Path, tensors: Mapping[str, np.ndarray] | None = None) -> None:
    """Writes the files of `folder` into `out`, in parts of at most LARGEST bytes, and an index of them.

    `tensors`: the restored checkpoint, whose matrices are left out of ONNX files; None: nothing is left out.
    """
    index = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        cuts = find_cuts(content, tensors or {}) if path.suffix == ".onnx" else []
        content = without(content, cuts)
        parts = [content[start : start + LARGEST] for start in range(0, len(content), LARGEST)] or [b""]
        names = [f"{digest[:16]}.{number}" for number in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            (out / name).write_bytes(part)
        index[path.relative_to(folder).as_posix()] = {"sha256": digest, "parts": names, "cuts": cuts}
    (out / INDEX).write_text(json.dumps(index, indent=1))


def join(material: Path, out: Path) -> None:
    """Writes the files whose parts are in `material` into `out`. Raises SystemExit if one is missing or damaged."""
    index = json.loads((material / INDEX).read_text())
    tensors: dict[str, np.ndarray] = {}
    for name, entry in sorted(index.items(), key=lambda item: len(item[1]["cuts"])):  # the checkpoint is there before what needs it
        missing = [part for part in entry["parts"] if not (material / part).is_file()]
        if missing:
            raise SystemExit(f"{material} lacks {', '.join(missing)}, parts of {name}; copy them, or write the material again")
        content = b"".join((material / part).read_bytes() for part in entry["parts"])
        if entry["cuts"]:
            if not tensors:
                with np.load(out / ROUNDED) as stored:
                    tensors = restored(stored)
            content = filled(content, [Cut(*cut) for cut in entry["cuts"]], tensors)
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise SystemExit(f"{name} in {material} is damaged; copy its parts again: {', '.join(entry['parts'])}")
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def find_cuts(content: bytes, tensors: Mapping[str, np.ndarray]) -> list[Cut]:
    """Where the content has matrices of the checkpoint in float16, in their order; none overlaps another."""
    cuts: list[Cut] = []
    for name in tensors:
        for matrix in (name, f"{name}_T"):
            half = _half(matrix, tensors)
            start = content.find(half) if len(half) >= SMALLEST_CUT else -1
            if start >= 0 and all(start + len(half) <= cut.start or cut.start + cut.size <= start for cut in cuts):
                cuts.append(Cut(start, len(half), matrix))
    return sorted(cuts)


def without(content: bytes, cuts: Sequence[Cut]) -> bytes:
    """The content without those bytes."""
    ends = [0, *(cut.start + cut.size for cut in cuts)]
    starts = [*(cut.start for cut in cuts), len(content)]
    return b"".join(content[end:start] for end, start in zip(ends, starts, strict=True))


def filled(content: bytes, cuts: Sequence[Cut], tensors: Mapping[str, np.ndarray]) -> bytes:
    """The content as it was before `without`."""
    pieces, read, place = [], 0, 0
    for cut in cuts:
        pieces += [content[read : read + cut.start - place], _half(cut.matrix, tensors)]
        read += cut.start - place
        place = cut.start + cut.size
    return b"".join([*pieces, content[read:]])


def _half(matrix: str, tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a matrix in float16, by the name that a Cut gives it."""
    tensor = tensors[matrix] if matrix in tensors else tensors[matrix.removesuffix("_T")].T
    return np.ascontiguousarray(tensor.astype(np.float16)).tobytes()


def round_weights(source: Path, out: Path) -> None:
    """Writes the tensors of a safetensors file as int8 with a float32 scale for each row; vectors stay as they are."""
    from safetensors.numpy import load_file

    arrays: dict[str, np.ndarray] = {}
    for name, tensor in load_file(source).items():
        if tensor.ndim != 2:
            arrays[f"{name}:whole"] = tensor
            continue
        scales = np.maximum(np.abs(tensor).max(1, keepdims=True), np.finfo(np.float32).tiny).astype(np.float32) / LEVELS
        arrays[f"{name}:int8"] = np.rint(tensor / scales).astype(np.int8)
        arrays[f"{name}:scales"] = scales
    np.savez(out, **arrays)  # type: ignore[arg-type] # no array is named like an option


def restore_weights(source: Path, out: Path) -> None:
    """Writes the safetensors file of rounded weights in float32."""
    from safetensors.numpy import save_file

    with np.load(source) as stored:
        save_file(restored(stored), out, metadata={"format": "pt"})


def restored(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of rounded weights, by name."""
    tensors = {}
    for key in stored:
        name, _, kind = key.rpartition(":")
        if kind == "whole":
            tensors[name] = np.array(stored[key])
        elif kind == "int8":
            tensors[name] = stored[key].astype(np.float32) * stored[f"{name}:scales"]
    return tensors


def optimize(checkpoint: Path, out: Path) -> None:
    """Writes onnxruntime's graph for GPUs: traced, fused by onnxruntime.transformers and converted to float16.

    These are the steps and the options of optimum's O4 (https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/optimization),
    but for onnxruntime's own fusions, which run when the graph is loaded.
    """
    import torch
    import transformers
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager").eval()
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if getattr(model.config, "type_vocab_size", 0) > 1 else [])]
    traced = out.with_name("traced.onnx")
    torch.onnx.export(
        _Named(model, names),
        tuple(torch.ones((2, 8), dtype=torch.int64) for _ in names),
        str(traced),
        dynamo=False,
        opset_version=OPSET,
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "width"} for name in names} | {"logits": {0: "batch"}},
    )
    kind = "bert"
    options = FusionOptions(kind)
    options.enable_gelu_approximation = True
    heads, size = model.config.num_attention_heads, model.config.hidden_size
    fused = optimize_model(str(traced), kind, heads, size, optimization_options=options, opt_level=0, use_gpu=True)
    fused.convert_float_to_float16(keep_io_types=True)
    fused.save_model_to_file(str(out))
    traced.unlink()


def _Named(model: Any, names: list[str]) -> Any:  # noqa: N802 - it makes a module
    """A module that takes the model's inputs by position and returns its logits."""
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            return self.model(**dict(zip(names, inputs, strict=True))).logits

    return Named()
