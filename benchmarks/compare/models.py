"""The forms of one checkpoint's weights that the contenders load, each made once and kept in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.compare.catalogue import INT8_FILE, SCRIPTS, locked
from benchmarks.compare.rounds import tell
from benchmarks.compare.running import ENVIRONMENT
from benchmarks.environments import InstallError
from benchmarks.material import gate_pools
from resift import machine

if TYPE_CHECKING:
    from benchmarks.compare.catalogue import Form

FLASHRANK = "ms-marco-MiniLM-L-12-v2", "flashrank-MiniLM-L-12-v2_Q.onnx"
"""A name and its file out of FlashRank's own list: it loads no other."""
SETTINGS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
OPENVINO_FILES = {
    "openvino/openvino_model.xml": "openvino_model.xml",
    "openvino/openvino_model.bin": "openvino_model.bin",
    "config.json": "config.json",
}
OF_PROCESSOR = ("onnx", "flashrank")
"""Forms whose int8 depends on the processor."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class ModelError(Exception):
    """A form of the weights cannot be made: the reason."""


class ModelForms:
    """The forms of `checkpoint`, a folder or a hub id, in `folder`; `environments`: where those that export are."""

    def __init__(self, checkpoint: str, artifact: str, folder: Path, environments: Path) -> None:
        self.checkpoint, self.artifact = checkpoint, artifact
        self._folder, self._environments = folder, environments
        self._failures: dict[str, str] = {}

    @property
    def identity(self) -> str:
        """Tells checkpoints apart: a digest of the weights and the tokenizer, or the hub's id."""
        digest = hashlib.sha256(self.artifact.encode())
        path = Path(self.checkpoint)
        if not path.is_dir():
            return self.checkpoint
        for name in (*WEIGHTS, *SETTINGS):
            if (path / name).exists():
                digest.update(name.encode() + hashlib.sha256((path / name).read_bytes()).digest())
        return digest.hexdigest()[:16]

    def form(self, name: Form) -> str:
        """What a contender that takes this form loads. Raises ModelError with the reason if it cannot be made."""
        if name in ("artifact", "checkpoint"):
            return self.artifact if name == "artifact" else self.checkpoint
        if name in self._failures:
            raise ModelError(self._failures[name])
        kind = f"{name}-{quantization()}" if name in OF_PROCESSOR else name
        target = self._folder / self.identity.replace("/", "--") / kind
        try:
            if not target.exists():
                self._make(name, target)
        except ModelError as error:
            self._failures[name] = str(error)
            raise
        return str(target / FLASHRANK[0]) if name == "flashrank" else str(target)

    def _make(self, name: Form, target: Path) -> None:
        """Fills a folder beside the target, which takes its place once it is whole."""
        tell(f"making the weights' form {name}")
        partial = target.with_name(f".{name}.{os.getpid()}")
        partial.mkdir(parents=True)
        try:
            if name == "onnx":
                self._export("sentence-transformers-onnx", "export_onnx.py", partial, quantization(), INT8_FILE)
            elif name == "openvino":
                texts = partial / "calibration" / "texts.jsonl"
                texts.parent.mkdir()
                lines = [json.dumps({"text": text}) for pool in gate_pools() for text in pool.documents]
                texts.write_text("\n".join(lines) + "\n", encoding="utf-8")
                self._export("sentence-transformers-openvino", "export_openvino.py", partial, str(texts.parent))
            elif name == "openvino-genai":
                self._copy_openvino(partial)
            else:
                self._copy_flashrank(partial)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _export(self, name: str, script: str, target: Path, *options: str) -> None:
        environment = replace(locked(name), folder=self._environments)
        try:
            environment.install()
        except InstallError as error:
            raise ModelError(f"{name} cannot be installed: {error}") from error
        command: list[str | Path] = [environment.python, SCRIPTS / script, self.checkpoint, target, *options]
        log = target.parent / f"{script}.log"
        with log.open("wb") as messages:
            done = subprocess.run(command, stdout=messages, stderr=messages, env={**os.environ, **ENVIRONMENT}, check=False)
        if done.returncode:
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no reason"]
            raise ModelError(f"{script} failed: {last[0][:200]} ({log} has all of it)")

    def _copy_openvino(self, target: Path) -> None:
        source = Path(self.form("openvino"))
        for name, copied in OPENVINO_FILES.items():
            shutil.copy(source / name, target / copied)
        for file in source.glob("openvino_*tokenizer.*"):
            shutil.copy(file, target)

    def _copy_flashrank(self, target: Path) -> None:
        source, folder = Path(self.form("onnx")), target / FLASHRANK[0]
        folder.mkdir()
        shutil.copy(source / INT8_FILE, folder / FLASHRANK[1])
        for name in SETTINGS:
            if (source / name).exists():
                shutil.copy(source / name, folder)


def quantization() -> str:
    """The name of sentence-transformers' int8 for this processor."""
    sets = machine.instruction_sets()
    wanted = (("avx512_vnni", "avx512_vnni"), ("avx512f", "avx512"), ("avx2", "avx2"), ("asimd", "arm64"))
    return next((name for feature, name in wanted if feature in sets), "avx2")
