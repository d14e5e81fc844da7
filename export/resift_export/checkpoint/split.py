"""split: models in whose first layers query and document do not read each other, and their pieces, for the families of LAYERS.

In the first layers of a split model, query and document are two texts. The document's first token stands at a fixed position,
whatever the query's length, so that its states after these layers are a function of the document alone. In the later layers, only
the query's tokens go on: they read each other and the document's states. `resift distill --split` makes such models, saved as
ordinary checkpoints whose config.json says how they are split; read in one piece, as transformers reads them, they rank badly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import torch

from resift.errors import ExportError
from resift_export.checkpoint.layers import LAYERS, head_size, layers_of, linear, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "resift_split"
"""The field of config.json."""


class SplitLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is split."""

    layers: int
    """number of the first layers, in which query and document do not read each other"""
    document_position: int
    """position of the document's first token: also the maximum number of tokens before a document, special ones included"""


def split_of(model: Any, source: str) -> SplitLayout | None:
    """How the model `source` is split, by its configuration; None for a model that is not. Raises ExportError if it cannot be."""
    found = getattr(model.config, KEY, None)
    if found is None:
        return None
    layers = int(model.config.num_hidden_layers)
    positions = positions_of(model) if model.config.model_type in LAYERS else 1
    try:
        split = msgspec.convert(found, SplitLayout)
    except msgspec.ValidationError:
        split = SplitLayout(0, 0)
    if not (0 < split.layers < layers and 0 < split.document_position < positions):
        raise ExportError(
            f"config.json of {source} has {KEY} {found!r:.100}; expected layers from 1 to {layers - 1} and a document_position "
            f"from 1 to {positions - 1}, as `resift distill --split` writes them"
        )
    return split


def check_whole(model: Any, source: str) -> None:
    """Raises ExportError if the model `source` is split."""
    if split := split_of(model, source):
        raise ExportError(
            f"{source} is split after layer {split.layers}, so that it ranks only as the first look of its teacher; expected a "
            f"checkpoint that is not: resift export TEACHER OUT --first-look {source}"
        )


def positions_of(model: Any) -> int:
    """Number of tokens for which the model has positions. RoBERTa-like models number them from the padding index + 1."""
    return int(_positions(model).num_embeddings) - _first_position(model)


def embed(model: Any, ids: torch.Tensor, segment_ids: torch.Tensor | None = None, *, first: int = 0) -> torch.Tensor:
    """The embeddings [n, width, hidden size] of the tokens `ids`, int64[n, width], at positions from `first` on.

    `segment_ids`: int64[n, width]; None for a model that reads none.
    """
    tables = model.base_model.embeddings
    segments = getattr(tables, "token_type_embeddings", None)
    positions = torch.arange(ids.shape[1], device=ids.device) + (first + _first_position(model))
    states = tables.word_embeddings(ids)
    if segments is not None:
        states = states + segments(torch.zeros_like(ids) if segment_ids is None else segment_ids)
    states = tables.LayerNorm(states + _positions(model)(positions))
    project = getattr(model.base_model, "embeddings_project", None)
    return states if project is None else project(states)  # type: ignore[no-any-return]


def run_first_layers(model: Any, split: SplitLayout, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The states [n, width, hidden size] of queries or of documents after the first layers, from their embeddings.

    `mask`: added to the attention scores, [n, 1, 1, width]; None without padding.
    """
    for layer in layers_of(model)[: split.layers]:
        states = run_layer(model, layer, states, mask)
    return states


def run_later_layers(
    model: Any, split: SplitLayout, queries: torch.Tensor, documents: torch.Tensor, mask: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The states [n, q, hidden size] of the query's tokens after each of the later layers.

    `queries`: [n, q, hidden size] and `documents`: [n, d, hidden size], the states after the first layers. `mask`: added to the
    attention scores, [n, 1, 1, q + d]; None without padding.
    """
    outputs = []
    for layer in layers_of(model)[split.layers :]:
        queries = run_layer(model, layer, queries, mask, documents)
        outputs.append(queries)
    return outputs


def run_layer(
    model: Any, layer: torch.nn.Module, rows: torch.Tensor, mask: torch.Tensor | None = None, further: torch.Tensor | None = None
) -> torch.Tensor:
    """A layer's output for the `rows`, [n, q, hidden size], whose tokens read each other and the `further` states.

    `further`: [n, d, hidden size]; None: none. `mask`: added to the attention scores, broadcast to [n, heads, q, q + d].
    """
    parts, size = parts_of(model), head_size(model)

    def project(name: str, *states: torch.Tensor) -> torch.Tensor:
        projected = [linear(layer, name)(each) for each in states]
        joined: torch.Tensor = projected[0] if len(projected) == 1 else torch.cat(projected, dim=1)
        return joined.unflatten(2, (-1, size)).transpose(1, 2)  # type: ignore[no-any-return, no-untyped-call]

    readable = (rows,) if further is None else (rows, further)
    query, key, value = (
        project(name, *states) for name, states in zip(parts.projections, ((rows,), readable, readable), strict=True)
    )
    mixed = _attend(model, query, key, value, None if mask is None else mask.to(query.dtype))
    attention = linear(layer, parts.attention_output)(mixed.transpose(1, 2).flatten(2))
    rows = layer.get_submodule(parts.attention_norm)(attention + rows)
    units = layer.get_submodule(parts.activation)(linear(layer, parts.inner)(rows))
    output: torch.Tensor = layer.get_submodule(parts.output_norm)(linear(layer, parts.outer)(units) + rows)
    return output


def head_logits(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Logits [n, labels] from the last states [n, q, hidden size], of which the head reads the first token's."""
    return HEADS[model.config.model_type](model, states)


def _classifier(model: Any, states: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(states)
    return logits


def _pooled(model: Any, states: torch.Tensor) -> torch.Tensor:
    return _classifier(model, model.base_model.pooler(states))


def _projected(model: Any, states: torch.Tensor) -> torch.Tensor:
    return _classifier(model, model.pre_classifier(states[:, 0]).relu())


HEADS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "bert": _pooled,
    "electra": _classifier,
    "roberta": _classifier,
    "xlm-roberta": _classifier,
    "distilbert": _projected,
}
"""The head by model_type, for the families of LAYERS, without dropout if the model is in evaluation mode."""


def _attend(model: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention as the model is set to it: torch's own is traced as one node, plain products are faster to train on a CPU."""
    if model.config._attn_implementation != "eager":  # noqa: SLF001 - transformers has no other name for it
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    scores = query @ key.transpose(2, 3) * head_size(model) ** -0.5
    mixed: torch.Tensor = (scores if mask is None else scores + mask).softmax(dim=3) @ value
    return mixed


def _positions(model: Any) -> torch.nn.Embedding:
    table: torch.nn.Embedding = model.base_model.embeddings.position_embeddings
    return table


def _first_position(model: Any) -> int:
    padding = _positions(model).padding_idx
    return 0 if padding is None else padding + 1
