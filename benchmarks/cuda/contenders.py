"""Contenders, all in this process and on one device.

resift with and without padding, sentence-transformers in two precisions, and onnxruntime's O4 graph.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
import numpy as np

from benchmarks.cuda.material import OPTIMIZED
from resift import Reranker, Settings
from resift.artifact.folder import Artifact
from resift.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from resift.scheduling.call import Batch

QUERY = "how do tides follow the moon"

BATCH = 256
"""Pairs of a batch of the others; sentence-transformers' own default, 32, leaves a large GPU idle."""


class Timed(Protocol):
    """A system under test."""

    name: str

    def score(self, query: str, documents: list[str]) -> np.ndarray:
        """A score for each document."""


class BatchRun(NamedTuple):
    """A batch of resift that ran."""

    lengths: NDArray[np.int32]
    """tokens of its pairs, without padding"""
    places: int
    """rows x width, with padding"""
    seconds: float
    """without tokenization"""


class Resift:
    """The artifact in float16. Without a GPU, its batches are rehearsed on the CPU, which computes padding in any case."""

    def __init__(self, work: Path, *, is_dry: bool, packs: bool = True) -> None:
        """`packs`: whether padding is left out, if the GPU can do that."""
        self.name = "resift float16" if packs else "resift float16, with padding"
        settings = Settings(precision="float16") if is_dry else Settings(precision="float16", provider="cuda")
        artifact = Artifact.open(work / "artifact")
        self.reranker = Reranker(
            artifact if packs else without_packed(artifact), settings=settings, rehearsed="cuda" if is_dry else None
        )
        self.batches: list[BatchRun] = []
        """those since it was emptied"""
        self.reranker.observe(self._note)

    def _note(self, batch: Batch, seconds: float) -> None:
        lengths = np.array([call.encodings.lengths[row] for call, row in batch.rows], np.int32)
        self.batches.append(BatchRun(lengths, len(batch.rows) * batch.bucket.width, seconds))

    def score(self, query: str, documents: list[str]) -> np.ndarray:
        return self.reranker.logits(query, documents)


def without_packed(artifact: Artifact) -> Artifact:
    """The artifact as if it had been exported without --packed."""
    structs = msgspec.structs
    graphs = [
        structs.replace(graph, variants=[structs.replace(variant, packed=None) for variant in graph.variants])
        for graph in artifact.manifest.graphs
    ]
    return replace(artifact, manifest=structs.replace(artifact.manifest, graphs=graphs))


def opened(makers: Mapping[str, Callable[[], Timed]], left_out: dict[str, str]) -> list[Timed]:
    """The contenders that load here and score a pair; why another one does not is noted in `left_out`, and printed."""
    found = []
    for name, make in makers.items():
        try:
            contender = make()
            contender.score(QUERY, [QUERY, f"{QUERY} {QUERY}"])
        except Exception as error:  # noqa: BLE001 - a rival that cannot run here must not end the measurement of the others
            left_out[name] = f"{type(error).__name__}: {first_line(error)}"
            print(f"{name} is left out: {left_out[name]}", flush=True)
        else:
            found.append(contender)
    return found


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
