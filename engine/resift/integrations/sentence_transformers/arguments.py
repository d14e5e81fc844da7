"""Arguments: translates those of sentence-transformers' CrossEncoder into Settings, and refuses those that resift lacks."""

from __future__ import annotations

import logging
import sys
import warnings
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from resift.errors import InputError
from resift.inputs import read_pairs
from resift.runtime.providers import ORT_NAMES
from resift.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from resift.inputs import Pair
    from resift.settings import Auto, Precision, Provider

log = logging.getLogger(__name__)

F = TypeVar("F", bound="Callable[..., Any]")

BACKENDS = ("torch", "onnx")
"""Values of `backend` that are accepted; resift runs on onnxruntime with either."""
POSITIONAL = ("num_labels", "max_length", "activation_fn", "device")
"""Arguments of the constructor that older versions accepted by position, after the model's name."""
REASONS = {
    "it is for training: train with sentence-transformers, then load the checkpoint here": (
        *("fit", "old_fit", "train", "gradient_checkpointing_enable", "smart_batching_collate", "smart_batching_collate_text_only"),
    ),
    "merge the adapter into the checkpoint before it is exported": (
        *("add_adapter", "load_adapter", "set_adapter", "delete_adapter", "enable_adapters", "disable_adapters", "active_adapter"),
        *("active_adapters", "get_adapter_state_dict", "check_peft_compatible_model", "has_peft_compatible_model"),
    ),
    "there is no checkpoint to save; an artifact is a folder, reranker.artifact.folder, which can be copied": (
        *("save", "save_pretrained", "save_to_hub", "push_to_hub", "merge", "model_card_data_class"),
    ),
    (PROCESSES := "one process uses all cores"): ("start_multi_process_pool", "stop_multi_process_pool", "share_memory"),
    'precisions are int8, and float32 with model_kwargs={"dtype": "float32"}': ("half", "bfloat16", "float"),
    "use to('cpu') or to('cuda')": ("cpu", "cuda"),
    (TORCH := "there is no PyTorch model; reranker.artifact.manifest says what runs"): (
        *("model", "transformers_model", "config", "tokenizer", "processor", "preprocess", "tokenize", "forward", "compile"),
        *("modules", "module_kwargs", "parameters", "state_dict", "dtype", "set_keep_in_fp32_modules", "keep_in_fp32_modules"),
        *("clear_placement_cache", "is_hpu_graph_enabled", "get_model_kwargs", "model_type", "default_huggingface_organization"),
    ),
}
ABSENT = {name: reason for reason, names in REASONS.items() for name in names}
"""Names of sentence-transformers' class that this one lacks, and why."""


def renamed(**names: str) -> Callable[[F], F]:
    """Lets a function accept keyword arguments by old names. `names` maps each to the new name, or to "" if it has no effect.

    Each old name is logged once, with the text of sentence-transformers.
    """

    def decorate(function: F) -> F:
        method = function.__name__
        owner = "CrossEncoder " if method == "__init__" else ""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in [name for name in names if name in kwargs]:
                new, value = names[old], kwargs.pop(old)
                if new:
                    kwargs.setdefault(new, value)
                    _warn_once(f"The {owner}`{old}` argument was renamed and is now deprecated. Please use `{new}` instead.")
                else:
                    reason = f", as `{method}` always returns Python floats" if old.startswith("convert_to_") else ""
                    _warn_once(
                        f"The CrossEncoder.{method} `{old}` argument is deprecated and has no effect{reason}. "
                        "It will be removed in a future version."
                    )
            return function(*args, **kwargs)

        return cast("F", call)

    return decorate


def former(function: F) -> F:
    """Lets a constructor accept the arguments POSITIONAL by position, and classifier_dropout, as versions before 5.4 did."""

    @wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > 1 + len(POSITIONAL):
            raise TypeError(f"CrossEncoder takes at most {1 + len(POSITIONAL)} arguments by position, but {len(args)} were given")
        for name, value in zip(POSITIONAL, args[1:], strict=False):
            kwargs.setdefault(name, value)
            log.warning(
                "Passing `%s` as a positional argument to CrossEncoder is deprecated. Please use `%s=%.200r` as a keyword argument "
                "instead.",
                *(name, name, value),
            )
        if "classifier_dropout" in kwargs:
            dropout = {"classifier_dropout": kwargs.pop("classifier_dropout")}
            kwargs["config_kwargs"] = {**(kwargs.get("config_kwargs") or {}), **dropout}
            log.warning(
                "The CrossEncoder `classifier_dropout` argument is deprecated. Please use `config_kwargs=%s` instead.", dropout
            )
        return function(self, *args[:1], **kwargs)

    return cast("F", call)


def warn_renamed(old: str, new: str) -> None:
    """The warning of a property that is read or set by its old name, with the text of sentence-transformers."""
    warnings.warn(
        f"The `{old}` property was renamed and is now deprecated. Please use `{new}` instead.", DeprecationWarning, stacklevel=3
    )


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def prompt_of(
    prompts: Mapping[str, str], default_name: str | None, model_prompt: str, *, name: str | None = None, prompt: str | None = None
) -> str:
    """What to put before each query: `prompt`, or else the prompt of that name, or else the default one of `prompts`.

    `model_prompt`: what the engine puts before every query. Raises InputError for an unknown name, or another prompt than that.
    """
    name = default_name if name is None else name
    if prompt is None and name is not None:
        prompt = prompts.get(name)
        if prompt is None:
            raise InputError(f"Prompt name {name!r} not found in the configured prompts dictionary with keys {list(prompts)!r}.")
    if model_prompt and prompt not in (None, model_prompt):
        raise InputError(f"the model has a prompt of its own, {model_prompt!r}; expected no other one")
    return "" if prompt is None or model_prompt else prompt


def labels_of(config_kwargs: Mapping[str, Any] | None, num_labels: int | None) -> int | None:
    """The number of labels that the caller states; None if the caller does not.

    Raises InputError for other options in `config_kwargs` than the number of labels and dropout, which is for training.
    """
    config = dict(config_kwargs or {})
    declared = config.pop("num_labels", None)
    config.pop("classifier_dropout", None)
    refuse_options("config_kwargs", config)
    return declared if num_labels is None else num_labels


def settings_of(
    device: object, backend: str, max_length: int | None, model_kwargs: Mapping[str, Any], processor_kwargs: Mapping[str, Any]
) -> Settings:
    """The engine's settings; the longer text is cut first, as sentence-transformers does.

    Raises InputError for arguments that the engine cannot honour.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}: resift runs on onnxruntime")
    model, processor = dict(model_kwargs), dict(processor_kwargs)
    provider, precision = provider_of(device), _precision(model)
    ort_name = model.pop("provider", None)
    if ort_name is not None:
        named_provider = {name: key for key, name in ORT_NAMES.items()}.get(ort_name)
        if named_provider is None or provider not in ("auto", named_provider):
            raise InputError(
                f"model_kwargs has the provider {ort_name!r} (device: {device}); expected {' or '.join(ORT_NAMES.values())}"
            )
        provider = named_provider
    max_length = processor.pop("model_max_length", None) if max_length is None else max_length
    if not model.pop("use_safetensors", True):
        raise InputError("model_kwargs has use_safetensors False, but weights are read from safetensors only; leave it out")
    model.pop("export", None)  # a checkpoint is exported whenever that is necessary
    refuse_options("model_kwargs", model)
    refuse_options("processor_kwargs", processor)
    return Settings(
        provider=provider,
        precision=precision,
        max_length="auto" if max_length is None else max_length,
        truncation="longest_first",
    )


def provider_of(device: object) -> Provider | Auto:
    """The execution provider of a PyTorch device, a str or a torch.device. Raises InputError for any other device."""
    if device is None:
        return "auto"
    if isinstance(device, list | tuple):
        raise InputError(f"device is a list, for several processes, but {PROCESSES}; expected 'cpu', 'cuda' or None")
    name = str(device)
    if name in ("cpu", "cpu:0"):
        return "cpu"
    if name in ("cuda", "cuda:0"):
        return "cuda"
    raise InputError(
        f"device is {name!r}; expected 'cpu', 'cuda' or None (of several GPUs the first is used: CUDA_VISIBLE_DEVICES chooses)"
    )


def refuse_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises InputError that names the remaining `options`, if any."""
    if options:
        raise InputError(f"{name} has {', '.join(map(repr, options))}, which resift has no use for; leave it out")


def _precision(model_kwargs: dict[str, Any]) -> Precision | Auto:
    """Removes the dtype from `model_kwargs` and returns the precision it asks for."""
    old, new = model_kwargs.pop("torch_dtype", None), model_kwargs.pop("dtype", None)
    dtype = str(old if new is None else new).removeprefix("torch.")
    if dtype in ("None", "auto"):
        return "auto"
    if dtype == "float32":
        return "float32"
    raise InputError(f"model_kwargs asks for {dtype}; expected float32, or no dtype for the fastest precision, int8 on a CPU")


def read(inputs: Any) -> tuple[list[Pair], bool]:
    """The pairs, and whether `inputs` is a single pair instead of a list. Raises TypeError for anything but pairs of str."""
    rows = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
    datasets = sys.modules.get("datasets")
    lists = (list, tuple) if datasets is None else (list, tuple, datasets.Column)
    if not isinstance(rows, lists):
        raise TypeError(f"inputs is {type(inputs).__name__}; expected a list of (query, document) pairs of str, or one pair")
    is_single = len(rows) > 0 and not isinstance(rows[0], lists)
    pairs = [tuple(rows)] if is_single else rows
    texts = read_pairs(pairs)
    check_texts([document for _, document in pairs], "inputs")
    return texts, is_single


def check_texts(documents: Iterable[Any], name: str) -> None:
    """Raises TypeError for a document that is not a str, such as a mapping, which may hold an image."""
    for position, document in enumerate(documents):
        if not isinstance(document, str):
            raise TypeError(f"{name}[{position}] has {type(document).__name__} for a document; expected str")
