"""The contenders: which script runs each, in which environment, and which form of the weights it loads."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from benchmarks.environments import Environment
from benchmarks.material import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCRIPTS = REPOSITORY / "benchmarks" / "contenders"
PROTOCOL = "protocol.py"
LOCKED = REPOSITORY / "constraints" / "compare"

Form = Literal["artifact", "checkpoint", "onnx", "openvino", "openvino-genai", "flashrank"]
"""What a contender loads: see benchmarks/compare/models.py."""
INT8_FILE = "onnx/model_int8.onnx"
"""sentence-transformers' int8 for this processor, in the folder of the form onnx."""


def locked(name: str) -> Environment:
    """The environment whose requirements are constraints/compare/NAME.in and whose versions are NAME.txt beside it."""
    lines = (LOCKED / f"{name}.in").read_text(encoding="utf-8").split("\n")
    return Environment(name, tuple(line for line in lines if line and not line.startswith("#")), LOCKED / f"{name}.txt")


@dataclass(frozen=True)
class Contender:
    """A system under test."""

    name: str
    title: str
    """what it is, in the tables"""
    script: str
    """the file of benchmarks/contenders that runs it"""
    environment: Environment
    takes: Form
    options: tuple[str, ...] = ()
    """further arguments of its script"""

    @property
    def is_resift(self) -> bool:
        return self.environment.name == RESIFT_ENVIRONMENT.name

    @property
    def identity(self) -> str:
        """Tells apart what may answer differently: the environment, the script and its options."""
        content = [
            self.environment.identity,
            *((SCRIPTS / name).read_text(encoding="utf-8") for name in (PROTOCOL, self.script)),
            *self.options,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


RESIFT_ENVIRONMENT = Environment("resift", (str(REPOSITORY),))
_TORCH = Environment("sentence-transformers", ("sentence-transformers>=6", "torch"))
_ONNX, _OPENVINO = locked("sentence-transformers-onnx"), locked("sentence-transformers-openvino")
_RESIFT, _CROSS_ENCODER = "run_resift.py", "run_sentence_transformers.py"

CONTENDERS = (
    Contender("resift-full", "resift int8, full", _RESIFT, RESIFT_ENVIRONMENT, "artifact", ("full",)),
    Contender("resift-balanced", "resift int8, plan balanced", _RESIFT, RESIFT_ENVIRONMENT, "artifact", ("balanced",)),
    Contender("resift-fast", "resift int8, plan fast", _RESIFT, RESIFT_ENVIRONMENT, "artifact", ("fast",)),
    Contender(
        "resift-fast-prepared",
        "resift int8, plan fast, prepared documents",
        _RESIFT,
        RESIFT_ENVIRONMENT,
        "artifact",
        ("fast", "prepared"),
    ),
    Contender("pytorch", "sentence-transformers, PyTorch float32", _CROSS_ENCODER, _TORCH, "checkpoint"),
    Contender("pytorch-compile", "sentence-transformers, torch.compile", _CROSS_ENCODER, _TORCH, "checkpoint", ("compile",)),
    Contender(
        "onnx-o3",
        "sentence-transformers, ONNX O3 float32",
        "run_sentence_transformers_onnx.py",
        _ONNX,
        "onnx",
        ("onnx/model_O3.onnx",),
    ),
    Contender("onnx-int8", "sentence-transformers, ONNX int8", "run_sentence_transformers_onnx.py", _ONNX, "onnx", (INT8_FILE,)),
    Contender(
        "openvino",
        "sentence-transformers, OpenVINO float32",
        "run_sentence_transformers_openvino.py",
        _OPENVINO,
        "openvino",
        ("openvino/openvino_model.xml",),
    ),
    Contender(
        "openvino-int8",
        "sentence-transformers, OpenVINO int8 static",
        "run_sentence_transformers_openvino.py",
        _OPENVINO,
        "openvino",
        ("openvino/openvino_model_int8.xml",),
    ),
    Contender("openvino-genai", "OpenVINO GenAI, float32", "run_openvino_genai.py", locked("openvino-genai"), "openvino-genai"),
    Contender("fastembed", "fastembed, int8", "run_fastembed.py", locked("fastembed"), "onnx", (INT8_FILE,)),
    Contender("flashrank", "FlashRank, int8", "run_flashrank.py", locked("flashrank"), "flashrank"),
    Contender("fastretrieval", "fastretrieval, int8", "run_fastretrieval.py", locked("fastretrieval"), "onnx", (INT8_FILE,)),
    Contender("flash-rerank", "flash-rerank, int8", "run_flash_rerank.py", locked("flash-rerank"), "onnx"),
    Contender("kjarni", "kjarni, float32", "run_kjarni.py", locked("kjarni"), "checkpoint"),
    Contender("infinity", "infinity-emb, PyTorch float32", "run_infinity.py", locked("infinity"), "checkpoint"),
    Contender(
        "onnxruntime",
        "onnxruntime alone, float32, one padded forward",
        "run_onnxruntime.py",
        locked("onnxruntime"),
        "onnx",
        ("onnx/model.onnx",),
    ),
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}
RESIFT, PYTORCH = BY_NAME["resift-full"], BY_NAME["pytorch"]
BASELINE, REFERENCE = "resift-full", "pytorch"
"""The contender that ratios are taken to, and the one whose ranking is float32's."""


def chosen(names: Sequence[str], folder: Path) -> list[Contender]:
    """The contenders of these names (none: all), in the order of the catalogue, with their environments in `folder`.

    Raises ValueError for a name that no contender has.
    """
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise ValueError(f"there is no contender {unknown[0]!r}; expected names out of {', '.join(BY_NAME)}")
    return [
        replace(contender, environment=replace(contender.environment, folder=folder))
        for contender in CONTENDERS
        if not names or contender.name in names
    ]
