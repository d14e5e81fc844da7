"""loaded: whether the model that transformers made of a checkpoint's files is the one that was trained, by what it read of them."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import torch
import transformers

from resift.errors import ExportError
from resift_export.checkpoint.config import ALTERNATIVES, CONFIG, foreign_code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WRAPPERS = {"module.": "DataParallel or DDP", "_orig_mod.": "torch.compile", "base_model.model.": "PEFT"}
"""Wrappers of a model by the prefix that they put before the names of its weights."""
ADAPTER_WEIGHTS = re.compile(r"\.(lora_\w+|base_layer|modules_to_save|original_module)\.")
"""In the names that PEFT gives to the weights of an adapter and of the layers that it is added to."""
NUMBER = re.compile(r"\.\d+(?=\.)")
"""Of a layer, in the name of a weight."""

log = logging.getLogger(__name__)


def check_loaded(folder: Path, model: Any, loading_info: Mapping[str, Any], *, needs_head: bool) -> set[str]:
    """The names of weights that the files lack and nothing reads. Raises ExportError unless the model has all others from there.

    `loading_info`: what transformers' from_pretrained returned with the model. `needs_head`: whether the pooler's weights are read.
    """
    unexpected = sorted(loading_info["unexpected_keys"])
    if adapters := [name for name in unexpected if ADAPTER_WEIGHTS.search(name)]:
        raise adapter_error(folder, f"the weights {adapters[0]:.200}")
    missing = set(loading_info["missing_keys"])
    unused_weights = set() if needs_head else {key for key in missing if key.startswith("pooler.")}
    has_code = bool(getattr(model.config, "auto_map", None))
    if missing := missing - unused_weights:
        raise (
            foreign_code(str(folder), f"auto_map in its {CONFIG}")
            if has_code
            else _missing_error(folder, type(model).__name__, sorted(missing), unexpected)
        )
    # transformers 5 lists the sizes with each name
    if mismatched := sorted(found if isinstance(found, str) else found[0] for found in loading_info["mismatched_keys"]):
        raise _size_error(folder, model, mismatched)
    if inside := _inside_layers(model, unexpected):
        raise ExportError(
            f"{folder} has weights in its layers that the {type(model).__name__} of transformers {transformers.__version__} does "
            f"not read ({inside[0]:.200}), so its scores would be those of another model; expected that class's weights alone: "
            "save the model as one, or export it with the version of transformers that saved it"
        )
    if infinite := _not_finite(model):
        raise ExportError(
            f"{folder} has the weights {infinite:.200} with numbers that are infinite or NaN, as conversions to float16 leave "
            "them; expected finite ones: export the checkpoint that it was converted from"
        )
    if unexpected:
        log.warning("warning   %s has weights that its model does not read: %s", folder, f"{', '.join(unexpected):.200}")
    if has_code:
        log.warning(
            "warning   %s names code of its own (auto_map in its %s), which resift never runs: its scores are those of the %s of "
            "transformers, into which all its weights fit",
            *(folder, CONFIG, type(model).__name__),
        )
    return unused_weights


def check_positions(folder: Path, model: Any) -> None:
    """Raises ExportError if transformers gives the model absolute positions and its configuration declares others.

    transformers 5 reads no relative positions of BERT and its kin any more: https://github.com/huggingface/transformers/pull/41170.
    """
    declared = getattr(model.config, "position_embedding_type", None)
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    if declared not in (None, "absolute") and "position_embeddings" in names and "distance_embedding" not in names:
        if getattr(model.config, "auto_map", None):
            raise foreign_code(str(folder), f"auto_map in its {CONFIG}")
        raise ExportError(
            f"{folder} has position_embedding_type {declared!r:.40} in its {CONFIG}, which the {type(model).__name__} of "
            f"transformers {transformers.__version__} does not read, so its scores would be those of another model; expected "
            "'absolute': export it with transformers 4, which reads relative_key and relative_key_query"
        )


def adapter_error(folder: Path, found: str) -> ExportError:
    """The error for an adapter: `found` says by what it is recognized."""
    return ExportError(
        f"{folder} is an adapter, or has one ({found}), which resift does not apply; expected one whole model: load the adapter "
        "with PEFT and save what merge_and_unload() returns, with the tokenizer, in a folder of its own"
    )


def _missing_error(folder: Path, architecture: str, missing: list[str], unexpected: list[str]) -> ExportError:
    """The error for weights that the model needs and the files lack; `unexpected`: those that they have and it does not read."""
    first = missing[0]
    for prefix in (name.removesuffix(first) for name in unexpected if name.endswith(f".{first}")):
        if {f"{prefix}{name}" for name in missing}.issubset(unexpected):
            wrapper = WRAPPERS.get(prefix, "a class around the model")
            return ExportError(
                f"{folder} has the prefix {prefix!r:.80} before the names of its weights, as {wrapper} saves them; expected names "
                f"such as {first:.200}: save the model that is inside, or remove the prefix from the names"
            )
    instead = f" and has {', '.join(unexpected[:3])}{' …' if len(unexpected) > 3 else ''} instead" if unexpected else ""
    return ExportError(
        f"{folder} lacks the weights {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''} of {architecture}{instead:.400}; "
        f"expected a trained sequence classifier (not an embedding model): {ALTERNATIVES}"
    )


def _size_error(folder: Path, model: Any, mismatched: Sequence[str]) -> ExportError:
    """The error for weights of other sizes than the model's."""
    if getattr(model.config, "pruned_heads", None):
        return ExportError(
            f"{folder} has pruned heads (pruned_heads in its {CONFIG}), which transformers {transformers.__version__} does not "
            "read; expected the weights of all heads: fill in zeros for the pruned ones, which resift leaves out of the graph"
        )
    return ExportError(
        f"{folder} has weights of other sizes than its {CONFIG} says "
        f"(the first of {len(mismatched)}: {mismatched[0]:.200}); expected the same: save the model's own {CONFIG} with it"
    )


def _inside_layers(model: Any, names: Sequence[str]) -> list[str]:
    """Those of the `names` of weights that lie in a layer of the model."""
    modules = {name for name, _ in model.named_modules()}
    weights = (name for name in names if name.endswith((".weight", ".bias")))
    return [name for name in weights if (layer := NUMBER.search(name)) and name[: layer.end()] in modules]


def _not_finite(model: Any) -> str:
    """The name of the first weights of the model that are not all finite; empty if all are."""
    return next((name for name, tensor in model.named_parameters() if not torch.isfinite(tensor).all()), "")
