"""narrow: a student whose feed-forward networks keep a part of their inner units, with weights fitted anew, untrained.

Layer by layer, from the first: units leave one after the other, always the one without which the others can best make up for it,
and the weights of those that stay are fitted to the teacher's sums. Both follow in closed form from second moments of what the
units give for sampled pairs: the optimal brain surgeon (Hassibi and Stork, 1992) for whole units, as in ZipLM (arXiv:2302.04089).

A sum is what a norm reads: what came in, and what attention or the feed-forward network adds to it. As the student's sums are
fitted to the teacher's for inputs that the student itself gives, its errors do not add up from layer to layer. Attention is fitted
after left-out layers only: on MiniLM with all its layers that made the ranking worse.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from resift.errors import ExportError
from resift_export.distill.student import layers_of, run, size_name, through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import nn

    from resift_export.distill.batches import PaddedBatch

log = logging.getLogger(__name__)
RIDGE = 1e-4
"""Added to each unit's moment, in means of them: the fit must not lean on small differences of units that are alike."""
AT_ONCE = 64
"""Units that leave before the moments are inverted anew: rounding adds up, and matrices become smaller."""


class Parts(NamedTuple):
    """Modules of a layer."""

    mixed: str
    """what ends attention: a linear map"""
    mixed_norm: str
    inner: str
    """the linear map to the inner units of the feed-forward network"""
    outer: str
    """and the one from them"""
    norm: str


BERT = Parts("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")
PARTS = {
    "bert": BERT,
    "electra": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "distilbert": Parts("attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
}
"""By model_type, the families of student.LAYERS."""


def resize(student: Any, size: int) -> None:
    """Gives each layer `size` inner units, the first that it has, in place: room for weights from elsewhere."""
    setattr(student.config, size_name(student), size)
    parts = PARTS[student.config.model_type]
    for layer in layers_of(student):
        _keep(layer, parts, torch.arange(size, device=_linear(layer, parts.inner).weight.device))


def narrow(  # noqa: PLR0913 - the student, what it learns from, and who may end it
    student: Any, teacher: Any, keep: Sequence[int], size: int, batches: Sequence[PaddedBatch], go_on: Callable[[], bool]
) -> bool:
    """Narrows the `student`, which has the teacher's layers `keep`, to `size` inner units a layer, fitted on `batches`, in place.

    `go_on` is asked before every layer; once it returns False, so does this, with the student half done. Raises ExportError if
    what the teacher gives is not finite.
    """
    parts = PARTS[student.config.model_type]
    setattr(student.config, size_name(student), size)
    with torch.no_grad():
        own = [run(student, batch).hidden[0] for batch in batches]
        goals, at = own, 0
        for layer, number in zip(layers_of(student), keep, strict=True):
            if not go_on():
                return False
            log.info("          layer %d of %s", number, ", ".join(map(str, keep)))
            left_out = layers_of(teacher)[at:number]
            for between in left_out:
                goals = [through(between, states, batch) for states, batch in zip(goals, batches, strict=True)]
            goal, at, is_last = layers_of(teacher)[number], number + 1, number == keep[-1]
            mixed, sums = _Sums(goal, parts.mixed_norm), _Sums(goal, parts.norm)
            goals = [through(goal, states, batch) for states, batch in zip(goals, batches, strict=True)]
            wanted = mixed.taken()
            if left_out:  # whose part attention has to take over; otherwise it is the teacher's
                moments = _moments(layer, parts.mixed, parts.mixed_norm, own, batches, wanted, is_last=is_last)
                _set(_linear(layer, parts.mixed), *moments.fitted(torch.arange(moments.size)))
            moments = _moments(layer, parts.outer, parts.norm, own, batches, sums.taken(), is_last=is_last)
            kept = moments.chosen(size)
            _keep(layer, parts, kept)
            _set(_linear(layer, parts.outer), *moments.fitted(kept))
            own = [through(layer, states, batch) for states, batch in zip(own, batches, strict=True)]
    return True


class _Sums:
    """What a layer's norm reads, batch by batch, until it is taken."""

    def __init__(self, layer: nn.Module, norm: str) -> None:
        self._found: list[torch.Tensor] = []
        self._hook = layer.get_submodule(norm).register_forward_pre_hook(lambda _, inputs: self._found.append(inputs[0]))

    def taken(self) -> list[torch.Tensor]:
        self._hook.remove()
        return self._found


@dataclass
class _Moments:
    """Second moments of units and of what their linear map should give, both less their means."""

    units: torch.Tensor
    """float64[size, size]"""
    goals: torch.Tensor
    """float64[size, hidden size]: of units and goals"""
    means: torch.Tensor
    """float64[size]"""
    goal_means: torch.Tensor
    """float64[hidden size]"""

    @property
    def size(self) -> int:
        return len(self.means)

    def chosen(self, size: int) -> torch.Tensor:
        """int64[size]: the units that stay, in order."""
        kept = torch.arange(self.size, device=self.units.device)
        while len(kept) > size:
            inverse = torch.linalg.inv(self.units[kept][:, kept])
            weights, diagonal = inverse @ self.goals[kept], inverse.diagonal().clone()
            stays = torch.ones(len(kept), dtype=torch.bool, device=kept.device)
            # A unit's leaving subtracts the product of such a column with itself from the inverse, which is kept as it was.
            columns = inverse.new_zeros(len(kept), AT_ONCE)
            for step in range(min(AT_ONCE, len(kept) - size)):
                # The squared error that a unit's leaving adds, if the others' weights are fitted anew.
                costs = weights.square().sum(dim=1) / diagonal
                worst = int(torch.where(stays, costs, torch.inf).argmin())
                column = inverse[:, worst] - columns @ columns[worst]
                column /= column[worst].sqrt()
                columns[:, step] = column
                weights.addr_(column, weights[worst] / column[worst], alpha=-1)
                diagonal -= column.square()
                diagonal[worst], stays[worst] = 1.0, False
            kept = kept[stays]
        return kept

    def fitted(self, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights [hidden size, kept] and bias [hidden size] by which the `kept` units come nearest to the goals."""
        weights = torch.linalg.solve(self.units[kept][:, kept], self.goals[kept])
        return weights.T, self.goal_means - self.means[kept] @ weights


def _moments(  # noqa: PLR0913 - a layer, the map in it, and what that reads and should give
    layer: nn.Module,
    linear: str,
    norm: str,
    states: Iterable[torch.Tensor],
    batches: Iterable[PaddedBatch],
    wanted: Iterable[torch.Tensor],
    *,
    is_last: bool,
) -> _Moments:
    """Those of what the map `linear` of the layer reads, and should give for the layer's `norm` to read the sums `wanted`.

    In the last layer a pair's first token, which alone the head reads, counts as much as all others together.
    """
    module = _linear(layer, linear)
    size, hidden = module.in_features, module.out_features
    totals = torch.zeros(size + hidden, dtype=torch.float64, device=module.weight.device)
    products = torch.zeros(size, size + hidden, dtype=torch.float64, device=module.weight.device)
    count = 0.0
    found: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output: found.update(units=inputs[0], output=output)),
        layer.get_submodule(norm).register_forward_pre_hook(lambda _, inputs: found.update(sums=inputs[0])),
    ]
    for entered, batch, goal in zip(states, batches, wanted, strict=True):
        through(layer, entered, batch)
        both = torch.cat([found["units"], goal - found["sums"] + found["output"]], dim=2)
        counts = torch.ones(both.shape[:2], device=both.device) if batch.mask is None else batch.mask.to(both.dtype)
        if is_last:
            counts[:, 0] = counts[:, 1:].sum(dim=1)
        rows, weighted = both.flatten(0, 1), (both * counts[:, :, None]).flatten(0, 1)
        totals += weighted.sum(dim=0)
        products += weighted[:, :size].T @ rows
        count += float(counts.sum())
    for hook in hooks:
        hook.remove()
    if not products.isfinite().all():
        raise ExportError("the teacher's hidden states are not finite; expected a trained cross-encoder")
    means = totals / count
    moments = products / count - torch.outer(means[:size], means)
    units = moments[:, :size]
    units.diagonal().add_(RIDGE * units.diagonal().mean())
    return _Moments(units, moments[:, size:], means[:size], means[size:])


def _keep(layer: nn.Module, parts: Parts, kept: torch.Tensor) -> None:
    """Leaves the layer's feed-forward network the inner units `kept`."""
    inner, outer = _linear(layer, parts.inner), _linear(layer, parts.outer)
    _set(inner, inner.weight[kept], inner.bias[kept])
    _set(outer, outer.weight[:, kept], outer.bias)


def _set(linear: nn.Linear, weights: torch.Tensor, bias: torch.Tensor) -> None:
    """Gives a linear map other weights [outputs, inputs], perhaps of another size, and another bias."""
    for name, values in (("weight", weights), ("bias", bias)):
        old = getattr(linear, name)
        fresh = values.detach().to(old.dtype).clone(memory_format=torch.contiguous_format)
        setattr(linear, name, torch.nn.Parameter(fresh, requires_grad=old.requires_grad))
    linear.out_features, linear.in_features = weights.shape


def _linear(layer: nn.Module, name: str) -> nn.Linear:
    found = layer.get_submodule(name)
    assert isinstance(found, torch.nn.Linear)
    return found
