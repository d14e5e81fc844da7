"""layers: locates a family's transformer layers and the linear maps in them, and changes their numbers of heads and inner units.

transformers' configurations give all layers the same numbers of heads and inner units. A model whose layers have fewer, each its
own number, is therefore saved in its family's own shape: missing heads and units are added with weights of zero, which changes no
output (`expanded_state_dict`). After loading, `compact` removes every head and unit that the next map multiplies by zeros only.
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
"""The module that holds a family's layers, by model_type (MiniLM's cross-encoders are of the type bert or xlm-roberta). Each layer
reads hidden states and a mask, and the head reads the first token's last hidden state."""
SIZE_NAMES = {"distilbert": "hidden_dim"}
"""The configuration's name for the number of inner units of a feed-forward network, if it is not intermediate_size."""


class Parts(NamedTuple):
    """Names of a layer's modules: its linear maps, and its norms, each of which reads the sum of a map's output and a residual."""

    projections: tuple[str, str, str]
    """from hidden states to queries, keys and values"""
    attention_output: str
    """from the outputs of the heads"""
    attention_norm: str
    inner: str
    """to the inner units of the feed-forward network"""
    outer: str
    """from the inner units of the feed-forward network"""
    output_norm: str
    activation: str
    """of the inner units"""


BERT = Parts(
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
    "intermediate.intermediate_act_fn",
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
        "ffn.activation",
    ),
}
"""By model_type, for the families of LAYERS."""


class LayerSize(NamedTuple):
    """The size of a layer."""

    heads: int
    units: int
    """inner units of the feed-forward network"""


def layers_of(model: Any) -> torch.nn.ModuleList:
    """The model's layers, in order."""
    layers: torch.nn.ModuleList = model.base_model.get_submodule(LAYERS[model.config.model_type])
    return layers


def parts_of(model: Any) -> Parts:
    """Names of the modules in the model's layers."""
    return PARTS[model.config.model_type]


def linear(layer: nn.Module, name: str) -> nn.Linear:
    """The layer's linear map of that name."""
    module = layer.get_submodule(name)
    assert isinstance(module, torch.nn.Linear)
    return module


def head_size(model: Any) -> int:
    """Number of components of each of the model's heads."""
    return int(model.config.hidden_size) // int(model.config.num_attention_heads)


def sizes_of(model: Any) -> list[LayerSize]:
    """The size of each of the model's layers."""
    parts, components = parts_of(model), head_size(model)
    return [
        LayerSize(linear(layer, parts.attention_output).in_features // components, linear(layer, parts.outer).in_features)
        for layer in layers_of(model)
    ]


def keep_heads(layer: nn.Module, parts: Parts, components: torch.Tensor) -> None:
    """Removes all components of the layer's attention except `components`, int64[size of a head x heads], in place."""
    attention, input_count = (
        layer.get_submodule(parts.projections[0].rpartition(".")[0]),
        linear(layer, parts.attention_output).in_features,
    )
    # transformers below 5 reshapes by these attributes.
    for name in {"num_attention_heads", "n_heads", "all_head_size", "dim"} & vars(attention).keys():
        setattr(attention, name, getattr(attention, name) * len(components) // input_count)
    for name in parts.projections:
        _keep_outputs(linear(layer, name), components)
    _keep_inputs(linear(layer, parts.attention_output), components)


def keep_units(layer: nn.Module, parts: Parts, units: torch.Tensor) -> None:
    """Removes all inner units of the layer's feed-forward network except `units`, int64[units], in place."""
    _keep_outputs(linear(layer, parts.inner), units)
    _keep_inputs(linear(layer, parts.outer), units)


def resize(model: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Removes heads and units from the end of each layer, in place, so that the weights of `state_dict` fit the model."""
    parts, names = parts_of(model), {module: name for name, module in model.named_modules()}
    for layer in layers_of(model):
        for name, keep in ((parts.attention_output, keep_heads), (parts.outer, keep_units)):
            module = linear(layer, name)
            weights = state_dict.get(f"{names[module]}.weight", module.weight)
            keep(layer, parts, torch.arange(min(weights.shape[1], module.in_features), device=module.weight.device))


def compact(model: Any) -> None:
    """Removes the heads and units that are multiplied by zeros only, in place; at least one of each remains.

    Models of families that LAYERS does not list do not change.
    """
    if model.config.model_type not in LAYERS:
        return
    parts, components = parts_of(model), head_size(model)
    for layer in layers_of(model):
        keep_heads(layer, parts, units_of(_used_groups(linear(layer, parts.attention_output), components), components))
        keep_units(layer, parts, _used_groups(linear(layer, parts.outer), 1))


def compact_copy(model: Any) -> Any:
    """A compact copy of the model, or the model itself if nothing can be removed."""
    if model.config.model_type not in LAYERS or not _has_unused(model):
        return model
    copied = copy.deepcopy(model)
    compact(copied)
    return copied


def expanded_state_dict(model: Any) -> Mapping[str, torch.Tensor]:
    """The model's state dict with all layers padded to one size with zeros, as its configuration describes them.

    The configuration's number of heads stays; its number of inner units is set to that of the widest layer.
    """
    parts, config = parts_of(model), model.config
    units = max(size.units for size in sizes_of(model))
    setattr(config, SIZE_NAMES.get(config.model_type, "intermediate_size"), units)
    state_dict = dict(model.state_dict())
    names = {module: name for name, module in model.named_modules()}
    for layer in layers_of(model):
        for name in (*parts.projections, parts.attention_output, parts.inner, parts.outer):
            is_read = name in (parts.attention_output, parts.outer)
            size = units if name in (parts.inner, parts.outer) else int(config.hidden_size)
            key = names[linear(layer, name)]
            state_dict[f"{key}.weight"] = _pad(state_dict[f"{key}.weight"], size, axis=1 if is_read else 0)
            if not is_read:
                state_dict[f"{key}.bias"] = _pad(state_dict[f"{key}.bias"], size, axis=0)
    return state_dict


def units_of(groups: torch.Tensor, size: int) -> torch.Tensor:
    """int64[groups * size]: the numbers of the units in groups of `size` units, from the numbers of the groups."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def set_linear(module: nn.Linear, weights: torch.Tensor, bias: torch.Tensor) -> None:
    """Replaces the weights [outputs, inputs] of a linear map, perhaps by some of another size, and its bias."""
    for name, values in (("weight", weights), ("bias", bias)):
        old = getattr(module, name)
        copied = values.detach().to(old.dtype).clone(memory_format=torch.contiguous_format)
        setattr(module, name, torch.nn.Parameter(copied, requires_grad=old.requires_grad))
    module.out_features, module.in_features = weights.shape


def _keep_outputs(module: nn.Linear, units: torch.Tensor) -> None:
    set_linear(module, module.weight[units], module.bias[units])


def _keep_inputs(module: nn.Linear, units: torch.Tensor) -> None:
    set_linear(module, module.weight[:, units], module.bias)


def _used_groups(module: nn.Linear, group: int) -> torch.Tensor:
    """int64: numbers of the groups of `group` inputs in which any weight is not 0, or the first group if there is none."""
    used = module.weight.detach().ne(0).any(dim=0).view(-1, group).any(dim=1)
    used[0] |= ~used.any()
    return used.nonzero().flatten()


def _has_unused(model: Any) -> bool:
    parts, components = parts_of(model), head_size(model)
    return any(
        len(_used_groups(linear(layer, name), group)) * group < linear(layer, name).in_features
        for layer in layers_of(model)
        for name, group in ((parts.attention_output, components), (parts.outer, 1))
    )


def _pad(values: torch.Tensor, size: int, axis: int) -> torch.Tensor:
    """The values with zeros appended along the axis up to `size`."""
    shape = list(values.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([values, values.new_zeros(shape)], dim=axis)
