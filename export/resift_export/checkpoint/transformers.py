"""transformers: loads a checkpoint's model with transformers, which may not run code of the checkpoint."""

from __future__ import annotations

import logging
import pickle
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from resift.errors import ExportError, first_line
from resift_export.checkpoint.config import ALTERNATIVES, CONFIG, foreign_code, read_json

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

FLOATS = ("BF16", "F16", "F32", "F64")
"""Names of types in safetensors files."""
LOAD_REPORT = "LOAD REPORT"
"""In the table of missing, unexpected and mismatched weights that transformers logs."""
WRAPPERS = {"module.": "DataParallel or DDP", "_orig_mod.": "torch.compile", "base_model.model.": "PEFT"}
"""Wrappers of a model by the prefix that they put before the names of its weights."""
ADAPTER_WEIGHTS = re.compile(r"\.(lora_\w+|base_layer|modules_to_save|original_module)\.")
"""In the names that PEFT gives to the weights of an adapter and of the layers that it is added to."""
REASON_LIMIT = 300
"""The most characters of an error that are quoted whole; of a longer one, such as a list of all models, the first line."""

log = logging.getLogger(__name__)


def load_model(folder: Path, config: CheckpointConfig, *, safetensors: bool) -> tuple[Any, set[str]]:
    """The model in evaluation mode, and the names of weights that the files lack and nothing reads. Raises ExportError."""
    classifies = not config.is_modular or config.transformer.get("transformer_task") == "sequence-classification"
    kind = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModel
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors" if safetensors else "*.bin"))
    if safetensors and not _weight_files(folder):
        names = ", ".join(sorted(path.name for path in folder.glob("*.safetensors")))
        raise ExportError(
            f"{folder} has the weights {names:.200}, but neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}, which says "
            "what is in which file; expected one of them: copy it from where the weights come from"
        )
    try:
        configuration = _configuration(folder)
        _check_size(kind, configuration, folder, weights)
        _check_types(folder)
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
    unexpected = sorted(loading_info["unexpected_keys"])
    if adapters := [name for name in unexpected if ADAPTER_WEIGHTS.search(name)]:
        raise adapter_error(folder, f"the weights {adapters[0]:.200}")
    missing = set(loading_info["missing_keys"])
    unused_weights = set() if classifies else {key for key in missing if key.startswith("pooler.")}
    if missing := missing - unused_weights:
        raise _missing_error(folder, type(model).__name__, sorted(missing), unexpected)
    # transformers 5 lists the sizes with each name
    if mismatched := sorted(found if isinstance(found, str) else found[0] for found in loading_info["mismatched_keys"]):
        raise ExportError(
            f"{folder} has weights of other sizes than its config.json says "
            f"(the first of {len(mismatched)}: {mismatched[0]:.200}); expected the same: save the model's own config.json with it"
        )
    if unexpected:
        log.warning("warning   %s has weights that its model does not read: %s", folder, f"{', '.join(unexpected):.200}")
    return model.eval(), unused_weights


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


def _check_size(kind: Any, configuration: Any, folder: Path, weights: int) -> None:
    """Raises ExportError if the model has more numbers than its files, of `weights` bytes, can hold; nothing is allocated."""
    with torch.device("meta"):
        model = kind.from_config(configuration, trust_remote_code=False)
    size = sum(tensor.numel() for tensor in model.parameters())
    if size > weights > 0:  # without any weights, transformers says which files it expects
        raise ExportError(
            f"{folder} describes a model of {size:,} weights in its {CONFIG}, but its files of weights have {weights:,} bytes; "
            f"expected the sizes of those weights: save the model's own {CONFIG} with it"
        )


def _check_types(folder: Path) -> None:
    """Raises ExportError if a file that transformers loads has weights that are not floating-point numbers of 16 bits or more.

    transformers converts them to float32 as they are: without their scales, quantized weights would make another model.
    """
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                kind = file.get_slice(name).get_dtype()
                if name.endswith((".weight", ".bias")) and kind not in FLOATS:
                    raise ExportError(
                        f"{path} has the weights {name:.200} of the type {kind}; expected float32, float16 or bfloat16: export the "
                        "checkpoint that it was quantized from"
                    )


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads: the one with all weights, or else the shards that its index names."""
    names = {SAFE_WEIGHTS_NAME}
    if not (folder / SAFE_WEIGHTS_NAME).is_file() and (index := folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        shards = read_json(index).get("weight_map")
        names = {name for name in shards.values() if isinstance(name, str)} if isinstance(shards, dict) else set()
    return sorted(folder / name for name in names if (folder / name).is_file())


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
