"""layers: where a family's transformer layers and the linear maps in them are, and layers of fewer heads and inner units.

transformers' configurations give all layers the same heads and inner units. A model whose layers have fewer, of any number each, is
therefore saved at its family's own shape: what a layer lacks has weights of zero, which changes no output (`expanded`). `compact`
leaves it out again, after loading: a head or a unit that the next map multiplies by nothing but zeros.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

LAYERS = {
    "bert": "encoder.layer",
    "electra": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "distilbert": "transformer.layer",
}
"""Where a family's layers are, by model_type (MiniLM's cross-encoders are of the type bert or xlm-roberta). Each layer reads hidden
states and a mask, and the head reads the first token's last hidden state."""
SIZE_NAMES = {"distilbert": "hidden_dim"}
"""What a configuration calls the inner units of each feed-forward network, where it is not intermediate_size."""


class Parts(NamedTuple):
    """Modules of a layer: linear maps, and the norms that read what came in and what a map adds to it."""

    projections: tuple[str, str, str]
    """to queries, keys and values"""
    mixed: str
    """from what the heads give"""
    mixed_norm: str
    inner: str
    """to the inner units of the feed-forward network"""
    outer: str
    """and from them"""
    norm: str


BERT = Parts(
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
PARTS = {
    "bert": BERT,
    "electra": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "distilbert": Parts(
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin",
        "sa_layer_norm",
        "ffn.lin1",
        "ffn.lin2",
        "output_layer_norm",
    ),
}
"""By model_type, the families of LAYERS."""


class Size(NamedTuple):
    """Of a layer."""

    heads: int
    units: int
    """inner units of the feed-forward network"""


def layers_of(model: Any) -> torch.nn.ModuleList:
    """The model's layers, in order."""
    found: torch.nn.ModuleList = model.base_model.get_submodule(LAYERS[model.config.model_type])
    return found


def parts_of(model: Any) -> Parts:
    """Where the maps of its layers are."""
    return PARTS[model.config.model_type]


def linear(layer: nn.Module, name: str) -> nn.Linear:
    """The linear map of that name."""
    found = layer.get_submodule(name)
    assert isinstance(found, torch.nn.Linear)
    return found


def head_size(model: Any) -> int:
    """Components of each of its heads."""
    return int(model.config.hidden_size) // int(model.config.num_attention_heads)


def sizes_of(model: Any) -> list[Size]:
    """The size of each of its layers."""
    parts, each = parts_of(model), head_size(model)
    return [
        Size(linear(layer, parts.mixed).in_features // each, linear(layer, parts.outer).in_features) for layer in layers_of(model)
    ]


def keep_heads(layer: nn.Module, parts: Parts, kept: torch.Tensor) -> None:
    """Leaves the layer's attention the components `kept`, int64[size of a head x heads]."""
    attention, before = layer.get_submodule(parts.projections[0].rpartition(".")[0]), linear(layer, parts.mixed).in_features
    # transformers below 5 reshapes by these.
    for name in {"num_attention_heads", "n_heads", "all_head_size", "dim"} & vars(attention).keys():
        setattr(attention, name, getattr(attention, name) * len(kept) // before)
    for name in parts.projections:
        _keep_outputs(linear(layer, name), kept)
    _keep_inputs(linear(layer, parts.mixed), kept)


def keep_units(layer: nn.Module, parts: Parts, kept: torch.Tensor) -> None:
    """Leaves the layer's feed-forward network the inner units `kept`, int64[units]."""
    _keep_outputs(linear(layer, parts.inner), kept)
    _keep_inputs(linear(layer, parts.outer), kept)


def resize(model: Any, like: Mapping[str, torch.Tensor]) -> None:
    """Leaves each layer as many of its first heads and units as it has in the state dict `like`, in place: room for its weights."""
    parts, names = parts_of(model), {module: name for name, module in model.named_modules()}
    for layer in layers_of(model):
        for name, keep in ((parts.mixed, keep_heads), (parts.outer, keep_units)):
            module = linear(layer, name)
            weights = like.get(f"{names[module]}.weight", module.weight)
            keep(layer, parts, torch.arange(min(weights.shape[1], module.in_features), device=module.weight.device))


def compact(model: Any) -> None:
    """Leaves out, in place, the heads and units that are multiplied by zeros only, but for one of each.

    Models of other families than `LAYERS` are left as they are.
    """
    if model.config.model_type not in LAYERS:
        return
    parts, each = parts_of(model), head_size(model)
    for layer in layers_of(model):
        keep_heads(layer, parts, units_of(_used(linear(layer, parts.mixed), each), each))
        keep_units(layer, parts, _used(linear(layer, parts.outer), 1))


def compacted(model: Any) -> Any:
    """A compact copy of the model, or the model itself if nothing can be left out."""
    if model.config.model_type not in LAYERS or not _has_unused(model):
        return model
    found = copy.deepcopy(model)
    compact(found)
    return found


def expanded(model: Any) -> Mapping[str, torch.Tensor]:
    """Its state dict with all layers of one size, zeros in what they lack: what its configuration describes.

    That has as many heads as ever, and is given as many inner units as the widest layer has.
    """
    parts, config = parts_of(model), model.config
    units = max(size.units for size in sizes_of(model))
    setattr(config, SIZE_NAMES.get(config.model_type, "intermediate_size"), units)
    found = dict(model.state_dict())
    names = {module: name for name, module in model.named_modules()}
    for layer in layers_of(model):
        for name in (*parts.projections, parts.mixed, parts.inner, parts.outer):
            is_read = name in (parts.mixed, parts.outer)
            size = units if name in (parts.inner, parts.outer) else int(config.hidden_size)
            at = names[linear(layer, name)]
            found[f"{at}.weight"] = _padded(found[f"{at}.weight"], size, axis=1 if is_read else 0)
            if not is_read:
                found[f"{at}.bias"] = _padded(found[f"{at}.bias"], size, axis=0)
    return found


def units_of(groups: torch.Tensor, size: int) -> torch.Tensor:
    """int64[groups * size]: the units of groups of `size` units, by the groups' numbers."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def set_linear(module: nn.Linear, weights: torch.Tensor, bias: torch.Tensor) -> None:
    """Gives a linear map other weights [outputs, inputs], perhaps of another size, and another bias."""
    for name, values in (("weight", weights), ("bias", bias)):
        old = getattr(module, name)
        fresh = values.detach().to(old.dtype).clone(memory_format=torch.contiguous_format)
        setattr(module, name, torch.nn.Parameter(fresh, requires_grad=old.requires_grad))
    module.out_features, module.in_features = weights.shape


def _keep_outputs(module: nn.Linear, kept: torch.Tensor) -> None:
    set_linear(module, module.weight[kept], module.bias[kept])


def _keep_inputs(module: nn.Linear, kept: torch.Tensor) -> None:
    set_linear(module, module.weight[:, kept], module.bias)


def _used(module: nn.Linear, group: int) -> torch.Tensor:
    """int64: the groups of `group` inputs of which any has a weight other than 0, or the first if there is none."""
    used = module.weight.detach().ne(0).any(dim=0).view(-1, group).any(dim=1)
    used[0] |= ~used.any()
    return used.nonzero().flatten()


def _has_unused(model: Any) -> bool:
    parts, each = parts_of(model), head_size(model)
    return any(
        len(_used(linear(layer, name), group)) * group < linear(layer, name).in_features
        for layer in layers_of(model)
        for name, group in ((parts.mixed, each), (parts.outer, 1))
    )


def _padded(values: torch.Tensor, size: int, axis: int) -> torch.Tensor:
    """With zeros behind, up to `size` along the axis."""
    lacking = list(values.shape)
    lacking[axis] = size - lacking[axis]
    return torch.cat([values, values.new_zeros(lacking)], dim=axis)
