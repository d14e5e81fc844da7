"""sentence_transformers: a checkpoint as a CrossEncoder, which loads modular checkpoints and, if installed, is the reference."""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resift.errors import ExportError, ExtraError, InputError
from resift.evaluate.cross_encoder import load_cross_encoder

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from resift_export.checkpoint.config import CheckpointConfig

log = logging.getLogger(__name__)


def load(folder: Path, config: CheckpointConfig, model: Any, unused_weights: Collection[str], *, safetensors: bool) -> Any | None:
    """The CrossEncoder of `folder`, in float32 on the CPU, which shares the weights of `model`, so that memory holds them once.

    `unused_weights`: names of weights that the files lack and nothing reads. Returns None if sentence-transformers is not installed
    or too old. Raises ExtraError if a modular checkpoint needs it, and ExportError if it cannot load the checkpoint or loads other
    weights.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoder = load_cross_encoder(
                str(folder),
                device="cpu",
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={
                    "use_safetensors": safetensors,
                    "dtype": torch.float32,
                    "attn_implementation": model.config._attn_implementation,  # noqa: SLF001 - not the one that the file asks for
                },
            )
    except ExtraError as error:
        if config.is_modular:
            kinds = ", ".join(module.kind for module in config.modules)
            raise ExtraError(f"{folder} consists of modules of sentence-transformers ({kinds}): {error}") from error
        return None
    except InputError as error:
        raise ExportError(str(error)) from error
    encoder.set_keep_in_fp32_modules([])  # all modules are in float32
    _share_weights(encoder, model, unused_weights, folder)
    return encoder.eval()


def predict(encoder: Any, pairs: Sequence[tuple[str, str]], max_length: int) -> NDArray[np.float32]:
    """The encoder's logits float32[n, labels] of pairs, with its prompt, of one length in tokens: nothing is padded.

    The end of the document is cut to `max_length` tokens.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = encoder.predict(
            list(pairs),
            batch_size=len(pairs),
            activation_fn=torch.nn.Identity(),
            processing_kwargs={"text": {"truncation": "only_second", "max_length": max_length, "padding": False}},
            show_progress_bar=False,
        )
    return np.asarray(outputs, np.float32).reshape(len(pairs), -1)


def reference_name() -> str:
    """The name and version of the reference."""
    return f"CrossEncoder.predict of sentence-transformers {version('sentence-transformers')}"


def _share_weights(encoder: Any, model: Any, unused_weights: Collection[str], folder: Path) -> None:
    """Replaces the encoder's model by `model`. Raises ExportError unless both have the same weights."""
    expected, found = model.state_dict(), encoder[0].model.state_dict()
    differing = expected.keys() ^ found.keys() or {
        name for name, weights in expected.items() if name not in unused_weights and not torch.equal(weights, found[name])
    }
    if type(model) is not type(encoder[0].model) or differing:
        raise ExportError(
            f"sentence-transformers loads {folder} as a {type(encoder[0].model).__name__} whose weights differ from those that "
            f"transformers loads into a {type(model).__name__} (the first: {min(differing, default='none')}); expected the same"
        )
    encoder[0].model = model
