"""student: the families that can be distilled, a student's layers, and their errors compared with the teacher's."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from resift.errors import ExportError
from resift_export.checkpoint.config import ACTIVATIONS, CheckpointConfig
from resift_export.checkpoint.layers import LAYERS, compact, layers_of, resize
from resift_export.checkpoint.split import check_whole, embed, head_logits, run_first_layers, run_later_layers, split_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift_export.checkpoint.load import Checkpoint
    from resift_export.checkpoint.split import SplitLayout
    from resift_export.distill.batches import PaddedBatch

REASONS = {
    "albert": "all its layers are one and the same, so that none can be left out",
    "mpnet": "its layers share a position bias that the model computes",
    "deberta": "its layers share relative positions that the model computes",
    "deberta-v2": "its layers share relative positions that the model computes",
    "modernbert": "its layers alternate between global and local attention",
}


class Outputs(NamedTuple):
    """A model's outputs for a batch of n pairs."""

    hidden_states: Sequence[torch.Tensor]
    """[n, width, hidden size] each: the embeddings, then each layer's output; of a split model [n, query tokens, hidden size]: the
    output of each of the later layers"""
    logits: torch.Tensor
    """float32[n, labels]"""


def check_family(model: Any) -> None:
    """Raises ExportError, with the reason, if models of this kind cannot be distilled."""
    kind = model.config.model_type
    if kind not in LAYERS:
        reason = REASONS.get(kind, "how its layers are joined is not known")
        raise ExportError(f"a {kind} model cannot be distilled: {reason}; expected one of {', '.join(LAYERS)}")


def check_teacher(teacher: Checkpoint) -> None:
    """Raises ExportError, with the reason, if the teacher cannot be distilled."""
    check_family(teacher.model)
    check_whole(teacher.model, teacher.id)
    if teacher.is_modular or teacher.prompt:
        extras = "modules of sentence-transformers" if teacher.is_modular else "a prompt"
        raise ExportError(f"{teacher.id} has {extras}, which a student would lose; expected a plain sequence classifier")


def keep_activation(student: Any, teacher: Checkpoint) -> None:
    """Writes the teacher's activation into the student's config.json, the only file to declare it, unless it says so already."""
    if ACTIVATIONS[CheckpointConfig(student.config.to_dict()).scale(teacher.labels)] != teacher.activation:
        name = "linear.Identity" if teacher.activation == "identity" else "activation.Sigmoid"
        student.config.sentence_transformers = {"activation_fn": f"torch.nn.modules.{name}"}


def student_of(teacher: Any, keep: Sequence[int]) -> Any:
    """A copy of the teacher with only its layers `keep`; embeddings are frozen and dropout is off."""
    student = copy.deepcopy(teacher)
    block, _, name = LAYERS[student.config.model_type].partition(".")
    layers = layers_of(student)
    setattr(student.base_model.get_submodule(block), name, torch.nn.ModuleList([layers[number] for number in keep]))
    student.config.num_hidden_layers = len(keep)
    student.requires_grad_(requires_grad=True)
    for module in (student.base_model.embeddings, getattr(student.base_model, "embeddings_project", None)):
        if module is not None:
            module.requires_grad_(requires_grad=False)
    # In evaluation mode, as the teacher: the student learns outputs that were computed without dropout.
    return student.eval()


def start_from(student: Any, start: Any, name: str) -> None:
    """Gives `student` the weights of `start` and the sizes of its layers.

    Raises ExportError unless the weights fit the student and the frozen weights are equal.
    """
    check_family(start)
    compact(start)
    resize(student, start.state_dict())
    expected, found = student.state_dict(), start.state_dict()
    if start.config.model_type != student.config.model_type or {key: value.shape for key, value in expected.items()} != {
        key: value.shape for key, value in found.items()
    }:
        sizes = [f"{model.config.num_hidden_layers} layers of {model.config.hidden_size}" for model in (start, student)]
        raise ExportError(
            f"{name} is a {start.config.model_type} of {sizes[0]}, whose weights do not fit a student of {sizes[1]}; "
            "expected one that was distilled from this teacher"
        )
    frozen = [key for key, weights in student.named_parameters() if not weights.requires_grad]
    if differing := [key for key in frozen if not torch.equal(expected[key], found[key])]:
        raise ExportError(f"{name} has another {differing[0]} than the teacher; expected a student that was distilled from it")
    student.load_state_dict(found)


def run(model: Any, batch: PaddedBatch) -> Outputs:
    """All hidden states and the logits of a batch."""
    outputs = model(**batch.inputs, attention_mask=batch.mask, output_hidden_states=True)
    return Outputs(outputs.hidden_states, outputs.logits.float())


def run_split(model: Any, split: SplitLayout, batch: PaddedBatch) -> Outputs:
    """The query's hidden states in the later layers of a split model, and the logits, of a batch whose pairs have one query."""
    query, document = _halves(batch)
    mask = batch.attention_mask
    queries = run_first_layers(model, split, embed(model, *(column[:1] for column in query)))
    documents = embed(model, *document, first=split.document_position)
    documents = run_first_layers(model, split, documents, None if mask is None else mask[..., batch.query_tokens :])
    states = run_later_layers(model, split, queries.expand(len(documents), -1, -1), documents, mask)
    return Outputs(states, head_logits(model, states[-1]).float())


def embeddings_of(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """What the first layer reads: [n, width, hidden size]."""
    split = split_of(model, "the model")
    if split is None:
        return run(model, batch).hidden_states[0]
    query, document = _halves(batch)
    return torch.cat([embed(model, *query), embed(model, *document, first=split.document_position)], dim=1)


def _halves(batch: PaddedBatch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Token ids, and segment ids if the model reads them, of the queries, and those of the documents."""
    columns = [batch.inputs[name] for name in ("input_ids", "token_type_ids") if name in batch.inputs]
    return [column[:, : batch.query_tokens] for column in columns], [column[:, batch.query_tokens :] for column in columns]


def run_layers(student: Any, batch: PaddedBatch, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each layer's output for its own one of the `inputs`; inputs and outputs are [n, width, hidden size] each."""
    return [run_layer(layer, states, batch) for layer, states in zip(layers_of(student), inputs, strict=True)]


def run_layer(layer: torch.nn.Module, states: torch.Tensor, batch: PaddedBatch) -> torch.Tensor:
    """A layer's output for hidden states of the batch, both [n, width, hidden size]."""
    # Every implementation adds this mask to its attention scores; only torch's fused one accepts a boolean mask.
    mask = batch.attention_mask
    output = layer(states, None if mask is None else mask.to(states.dtype))
    # transformers below 5 returns a tuple.
    output_states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    if batch.reading == "frozen":
        return torch.cat([output_states[:, : batch.query_tokens], states[:, batch.query_tokens :]], dim=1)
    return output_states


def squared_errors(
    states: Sequence[torch.Tensor], goals: Sequence[torch.Tensor], batch: PaddedBatch, variances: Sequence[float]
) -> torch.Tensor:
    """Squared errors of hidden states: mean over components as a multiple of the variance, sum over tokens, mean over layers."""
    errors = []
    for layer_states, layer_goals, variance in zip(states, goals, variances, strict=True):
        distance = (layer_states.float() - layer_goals.float()).square().mean(dim=2)
        errors.append((distance if batch.mask is None else distance * batch.mask).sum() / variance)
    return torch.stack(errors).mean()
