"""Split checkpoints of tiny models, what they have to compute, and a runner of both graphs by onnxruntime alone."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

LAYERS, POSITION = 2, 24
FILLER = 5
"""A token id that is no padding in any family."""


def save(folder: Path, source: Path, layers: int = LAYERS, position: int = POSITION) -> None:
    """A copy of the checkpoint `source` that is split after so many layers, with documents from that position on."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["resift_split"] = {"layers": layers, "document_position": position}
    (folder / "config.json").write_text(json.dumps(config))


def rows(loaded: Any, query_tokens: int, document_tokens: int, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs [1, tokens] of a query and of a document of random ids."""
    ids = np.random.default_rng(seed + 1000 * query_tokens + document_tokens).integers(6, 1000, (1, query_tokens + document_tokens))
    segments = np.broadcast_to(np.arange(ids.shape[1]) >= query_tokens, ids.shape).astype(np.int64)
    row = loaded.signature.feed({"input_ids": ids, "token_type_ids": segments})
    return {name: value[:, :query_tokens] for name, value in row.items()}, {
        name: value[:, query_tokens:] for name, value in row.items()
    }


class Reference:
    """A split model as its definition says, with the layers of transformers and explicit masks over the whole pair."""

    def __init__(self, model: Any, layers: Any, split: int = LAYERS, position: int = POSITION) -> None:
        """`layers`: the model's, in order."""
        self._model, self._layers, self._split, self._position = model, layers, split, position

    def states(self, document: dict[str, Any]) -> Any:
        """The document's states, float32[1, d, size], after the first layers, beside a query that it cannot see."""
        filler = {
            name: np.concatenate([np.full((1, self._position), FILLER * (name == "input_ids")), value], 1)
            for name, value in document.items()
        }
        return self._first(self._embed(filler), self._position)[:, self._position :].numpy()

    def logits(self, query: dict[str, Any], states: Any) -> Any:
        """float32[1, labels] of a query and a document's states."""
        import torch

        with torch.inference_mode():
            rows = self._first(self._embed(query), query["input_ids"].shape[1])
            for layer in self._layers[self._split :]:
                rows = _output(layer(torch.cat([rows, torch.tensor(states)], 1), None))[:, : rows.shape[1]]

            def put(module: Any, arguments: Any, output: Any) -> Any:
                return rows if isinstance(output, torch.Tensor) else (rows, *output[1:])

            hook = self._layers[-1].register_forward_hook(put)
            try:
                return self._model(**_tensors(query)).logits.numpy()
            finally:
                hook.remove()

    def _embed(self, columns: dict[str, Any]) -> Any:
        import torch

        with torch.inference_mode():
            return self._model(**_tensors(columns), output_hidden_states=True).hidden_states[0]

    def _first(self, states: Any, boundary: int) -> Any:
        """The first layers, in which tokens before the boundary and others do not read each other."""
        import torch

        is_document = torch.arange(states.shape[1]) >= boundary
        mask = (is_document[:, None] != is_document)[None, None] * -1e9
        with torch.inference_mode():
            for layer in self._layers[: self._split]:
                states = _output(layer(states, mask))
        return states


def _tensors(columns: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.tensor(value) for name, value in columns.items()}


def _output(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


class Runner:
    """Both graphs, by their files."""

    def __init__(self, document: Path, query: Path, multiple: int = 16) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._document, self._query = (
            onnxruntime.InferenceSession(str(half), options, providers=["CPUExecutionProvider"]) for half in (document, query)
        )
        self._multiple = multiple

    def states(self, documents: list[dict[str, Any]]) -> list[Any]:
        """uint8[d, size] of each of the documents, all of one length, as one batch."""
        batch = {name: np.concatenate([document[name] for document in documents]) for name in documents[0]}
        return list(self._document.run(None, batch)[0])

    def logits(self, queries: list[dict[str, Any]], pairs: list[tuple[int, Any]], width: int | None = None) -> Any:
        """float32[b, labels] of pairs of a query's number and a document's states, as one batch; `width`: of the states."""
        longest = max(len(states) for _, states in pairs)
        padded = np.zeros((len(pairs), width or -(-longest // self._multiple) * self._multiple, pairs[0][1].shape[1]), np.uint8)
        for row, (_, states) in zip(padded, pairs, strict=True):
            row[: len(states)] = states
        columns = {name: np.concatenate([query[name] for query in queries]) for name in queries[0]}
        further = {
            "query_of": np.array([number for number, _ in pairs]),
            "states": padded,
            "document_tokens": np.array([len(states) for _, states in pairs]),
        }
        return self._query.run(None, columns | further)[0]
