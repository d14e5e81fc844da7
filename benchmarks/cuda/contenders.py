"""Contenders: resift, sentence-transformers in two precisions and onnxruntime's O4 graph, all in this process and on one device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cuda.material import OPTIMIZED
from resift import Reranker, Settings
from resift.artifact.folder import Artifact

if TYPE_CHECKING:
    from pathlib import Path

BATCH = 256
"""Pairs of a batch of the others; sentence-transformers' own default, 32, leaves a large GPU idle."""


class Resift:
    """The artifact in float16. Without a GPU, its batches are rehearsed on the CPU."""

    name = "resift float16"

    def __init__(self, work: Path, *, is_dry: bool) -> None:
        settings = Settings(precision="float16") if is_dry else Settings(precision="float16", provider="cuda")
        self.reranker = Reranker(Artifact.open(work / "artifact"), settings=settings, rehearsed="cuda" if is_dry else None)
        self.batches: list[tuple[int, int, float]] = []
        """rows, width and seconds of the batches since it was emptied; the seconds are without tokenization"""
        self.reranker.observe(lambda batch, seconds: self.batches.append((len(batch.rows), batch.bucket.width, seconds)))

    def score(self, query: str, documents: list[str]) -> np.ndarray:
        return self.reranker.logits(query, documents)


class SentenceTransformers:
    """CrossEncoder with scaled dot-product attention; transformers with the same steps where it is not installed."""

    def __init__(self, work: Path, precision: str, device: str) -> None:
        import torch
        import transformers

        try:
            import sentence_transformers
        except ImportError:
            library = "transformers"
        else:
            library = f"sentence-transformers {sentence_transformers.__version__}"
        self.name = f"{library} {precision}"
        self._torch, self._device = torch, device
        checkpoint = str(work / "checkpoint")
        self._fast = transformers.AutoTokenizer.from_pretrained(checkpoint)
        keywords = {"dtype": getattr(torch, precision), "attn_implementation": "sdpa"}
        self._encoder = None
        if library != "transformers":
            self._encoder = sentence_transformers.CrossEncoder(checkpoint, device=device, model_kwargs=keywords)
        else:
            model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint, **keywords)
            self._model = model.to(device).eval()

    def score(self, query: str, documents: list[str]) -> np.ndarray:
        """Scores in batches of BATCH, longest first."""
        pairs = [(query, document) for document in documents]
        if self._encoder is not None:
            return np.asarray(self._encoder.predict(pairs, batch_size=BATCH, show_progress_bar=False), np.float32)
        order = np.argsort([-len(document) for document in documents])
        scores = np.empty(len(pairs), np.float32)
        with self._torch.inference_mode():
            for start in range(0, len(pairs), BATCH):
                rows = order[start : start + BATCH]
                batch = self._fast(
                    [query] * len(rows), [documents[row] for row in rows], padding=True, truncation=True, return_tensors="pt"
                )
                logits = self._model(**{name: values.to(self._device) for name, values in batch.items()}).logits
                scores[rows] = logits[:, 0].float().cpu().numpy()
        return scores


class Optimized:
    """onnxruntime's O4 graph in its own session, with padding to the longest pair and one batch."""

    name = "onnxruntime O4"

    def __init__(self, work: Path, *, is_dry: bool) -> None:
        import onnxruntime
        import transformers

        self._fast = transformers.AutoTokenizer.from_pretrained(str(work / "checkpoint"))
        provider = "CPUExecutionProvider" if is_dry else "CUDAExecutionProvider"
        if not is_dry and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        self._session = onnxruntime.InferenceSession(str(work / OPTIMIZED), providers=[provider], enable_fallback=0)
        self._names = [item.name for item in self._session.get_inputs()]

    def score(self, query: str, documents: list[str]) -> np.ndarray:
        """Scores in batches of BATCH, longest first."""
        order = np.argsort([-len(document) for document in documents])
        scores = np.empty(len(documents), np.float32)
        for start in range(0, len(documents), BATCH):
            rows = order[start : start + BATCH]
            batch = self._fast(
                [query] * len(rows), [documents[row] for row in rows], padding=True, truncation=True, return_tensors="np"
            )
            inputs = {name: np.asarray(batch[name], np.int64) for name in self._names}
            scores[rows] = self._session.run(None, inputs)[0][:, 0]
        return scores
