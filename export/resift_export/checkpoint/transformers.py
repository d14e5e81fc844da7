"""transformers: loads a checkpoint's model with transformers, which may not run code of the checkpoint."""

from __future__ import annotations

import logging
import pickle
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from resift.errors import ExportError, first_line
from resift_export.checkpoint.config import CONFIG, foreign_code
from resift_export.checkpoint.loaded import check_loaded, check_positions
from resift_export.checkpoint.weights import check_tensors, weights_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from resift_export.checkpoint.config import CheckpointConfig

MALFORMED_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    *(ArithmeticError, AssertionError, ImportError, StrictDataclassError),
)
"""What transformers raises for malformed configuration files, which it reads without validation, or for packages that they need."""
SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size", "num_labels")
"""Numbers in config.json that must be above 0, by the names that transformers has for all families."""
LOAD_REPORT = "LOAD REPORT"
"""In the table of missing, unexpected and mismatched weights that transformers logs."""
REASON_LIMIT = 300
"""The most characters of an error that are quoted whole; of a longer one, such as a list of all models, the first line."""


def load_model(folder: Path, config: CheckpointConfig, *, safetensors: bool) -> tuple[Any, set[str]]:
    """The model in evaluation mode, and the names of weights that the files lack and nothing reads. Raises ExportError."""
    classifies = not config.is_modular or config.transformer.get("transformer_task") == "sequence-classification"
    kind = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModel
    try:
        configuration = _configuration(folder)
        check_tensors(folder)
        with torch.device("meta"):
            blank = kind.from_config(configuration, trust_remote_code=False)
        check_positions(folder, blank)
        _check_size(folder, blank, weights_size(folder, safetensors=safetensors))
        with suppressed_logs("transformers.modeling_utils", LOAD_REPORT):
            model, loading_info = kind.from_pretrained(
                folder,
                config=configuration,
                use_safetensors=safetensors,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,  # if it is not set, transformers asks on standard input
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below
            )
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{folder} has a pickle of more than weights, which torch does not load; expected a dictionary of tensors: save the "
            "model with save_pretrained"
        ) from error
    except (*MALFORMED_ERRORS, SafetensorError) as error:
        raise load_error(folder, error, f"transformers {transformers.__version__} cannot load {folder}") from error
    return model.eval(), check_loaded(folder, model, loading_info, needs_head=classifies)


def max_length_of(model: Any, tokenizer: Any) -> int:
    """The longest pair, in tokens with special tokens, for which the model has positions and that its tokenizer allows.

    RoBERTa-like models number positions from the padding index + 1, so they have that many fewer.
    """
    config = model.config
    if not isinstance(tokenizer.model_max_length, int | float) or not tokenizer.model_max_length >= 1:  # or NaN
        raise ExportError(
            f"tokenizer_config.json has model_max_length {tokenizer.model_max_length!r:.80}; expected a number of tokens: the "
            "longest pair that the model was trained for"
        )
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    embeddings = [module for module in model.modules() if hasattr(module, "position_embeddings")]
    padding = next((module.position_embeddings.padding_idx for module in embeddings if _is_table(module.position_embeddings)), None)
    if padding is not None:
        positions -= padding + 1
    return int(min(positions, tokenizer.model_max_length, sys.maxsize))


def _is_table(module: Any) -> bool:
    return isinstance(module, torch.nn.Embedding)


def _configuration(folder: Path) -> Any:
    """The configuration, with the attention that is traced. Raises ExportError for a size that no model has."""
    configuration = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for name in SIZES:
        value = getattr(configuration, name, None)
        if isinstance(value, int | float | str) and (type(value) is not int or value < 1):
            own_name = configuration.attribute_map.get(name, name)
            raise ExportError(
                f"{folder} has {own_name} {value!r:.40} in its {CONFIG}; expected an integer above 0: "
                f"save the model's own {CONFIG} with it"
            )
    # By default SDPA, which is traced as one Attention node; architectures without it use separate matrix products.
    configuration._attn_implementation = None  # noqa: SLF001 - whatever the file asks for may need a package or a GPU
    configuration.chunk_size_feed_forward = 0  # it saves memory, and does not change a score
    return configuration


def _check_size(folder: Path, model: Any, weights: int) -> None:
    """Raises ExportError if the model, for which nothing is allocated, has more numbers than its files of `weights` bytes hold."""
    size = sum(tensor.numel() for tensor in model.parameters())
    if size > weights > 0:  # without any weights, transformers says which files it expects
        raise ExportError(
            f"{folder} describes a model of {size:,} weights in its {CONFIG}, but its files of weights have {weights:,} bytes; "
            f"expected the sizes of those weights: save the model's own {CONFIG} with it"
        )


@contextmanager
def suppressed_logs(name: str, phrase: str) -> Iterator[None]:
    """Suppresses what the logger `name` says with `phrase` in it, unless an error follows, which may refer to it."""
    logger, records = logging.getLogger(name), list[logging.LogRecord]()

    def suppress(record: logging.LogRecord) -> bool:
        is_suppressed = phrase in record.getMessage()
        if is_suppressed:
            records.append(record)
        return not is_suppressed

    logger.addFilter(suppress)
    try:
        yield
    except MALFORMED_ERRORS:
        logger.removeFilter(suppress)
        for record in records:
            logger.handle(record)
        raise
    finally:
        logger.removeFilter(suppress)


def load_error(folder: Path, error: Exception, failure: str, mend: str = "") -> ExportError:
    """The ExportError for an error of transformers, whose own text advises to trust remote code if the checkpoint has any."""
    if "trust_remote_code" in str(error):
        return foreign_code(str(folder), "auto_map in its configuration")
    # An error such as KeyError says half of it by its name, and the validation of a field the other half in its second line.
    what = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    whole = " ".join(str(error).split())
    return ExportError(f"{failure}: {what}{whole if len(whole) <= REASON_LIMIT else first_line(error)}{mend}")
