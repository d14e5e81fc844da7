"""encoder: the checkpoint as the CrossEncoder that is trained, and the checkpoints that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resift.artifact.manifest import MANIFEST
from resift.errors import ExportError, ExtraError, InputError
from resift_export.checkpoint import load as checkpoints
from resift_export.checkpoint.layers import compact_copy
from resift_export.checkpoint.source import folder_of
from resift_export.checkpoint.split import check_whole
from resift_export.distill.batches import WIDTH_STEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift_export.checkpoint.load import Checkpoint

BATCH = 32
"""Pairs that are scored at once."""
ONLY_DOCUMENTS = {"truncation": "only_second"}
"""What sentence-transformers cuts of a pair that is too long: the document, as in an artifact."""


def load_start(source: str, revision: str | None, max_length: int) -> Checkpoint:
    """Loads the checkpoint to train. Raises ExportError, with the reason, for one that cannot be trained here."""
    folder = folder_of(source)
    if folder is not None and (folder / MANIFEST).is_file():
        raise ExportError(
            f"{source} is an artifact, which cannot be trained; expected the checkpoint that it was exported from: `resift info` "
            "names it"
        )
    checkpoint = checkpoints.load(source, revision=revision)
    check_whole(checkpoint.model, source)
    if checkpoint.is_modular or checkpoint.prompt:
        extras = "modules of sentence-transformers" if checkpoint.is_modular else "a prompt"
        raise ExportError(f"{source} has {extras}, which the trained checkpoint would lose; expected a plain sequence classifier")
    if checkpoint.labels != 1:
        raise ExportError(
            f"{source} has {checkpoint.labels} labels; expected a reranker of one label, whose logit is the relevance"
        )
    if compact_copy(checkpoint.model) is not checkpoint.model:
        raise ExportError(
            f"{source} is narrower than its layers, as `resift distill --width` makes it, and training would fill them again; "
            "expected the checkpoint before: train that, then distil it"
        )
    if checkpoint.encoder is None:
        raise ExtraError("training needs sentence-transformers 6 or newer, which is not installed: pip install 'resift[train]'")
    if max_length > checkpoint.max_length:
        raise InputError(f"max_length is {max_length}, but {source} reads at most {checkpoint.max_length} tokens")
    return checkpoint


def encoder_of(checkpoint: Checkpoint, max_length: int, device: torch.device) -> Any:
    """The checkpoint's CrossEncoder, which shares its weights, with pairs cut to `max_length` at the end of the document."""
    encoder = checkpoint.encoder
    assert encoder is not None
    if device.type == "cpu":
        # On a CPU, torch's fused attention is slower than plain products, above all in its backward pass.
        checkpoint.model.set_attn_implementation("eager")
    encoder.max_seq_length = max_length
    # transformers refuses to round widths up beyond the length at which it cuts.
    padding = {} if max_length % WIDTH_STEP else {"pad_to_multiple_of": WIDTH_STEP}
    encoder[0].processing_kwargs = {"text": ONLY_DOCUMENTS | padding}
    return encoder.to(device)


def logits_of(encoder: Any, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
    """float32[n]: the logits of the pairs."""
    if not pairs:
        return np.zeros(0, np.float32)
    outputs = encoder.predict(list(pairs), batch_size=BATCH, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return np.asarray(outputs, np.float32).reshape(len(pairs))
