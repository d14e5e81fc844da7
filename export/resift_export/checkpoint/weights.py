"""weights: the files of a checkpoint's weights that transformers loads, and what a folder without them holds instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from resift.errors import ExportError, first_line
from resift_export.checkpoint.config import CONFIG, read_json

if TYPE_CHECKING:
    from pathlib import Path

SAFETENSORS, PICKLES = "*.safetensors", "pytorch_model*.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
FLOATS = ("BF16", "F16", "F32", "F64")
"""Names of types in safetensors files."""
SHOWN = 3
"""How many files of a list are named."""


class OtherForm(NamedTuple):
    """A form of weights that transformers does not load."""

    patterns: tuple[str, ...]
    """of the paths of its files"""
    name: str
    mend: str


CONVERTED = "export the checkpoint that it was converted from"
OTHER_FORMS = (
    OtherForm(("*.onnx", "onnx/*.onnx"), "an ONNX graph", CONVERTED),
    OtherForm(("openvino_model.xml", "openvino/*.xml"), "an OpenVINO graph", CONVERTED),
    OtherForm(("*.gguf",), "GGUF", CONVERTED),
    OtherForm(
        ("tf_model*.h5", "*.ckpt.index"), "TensorFlow weights", "load them with transformers 4 and from_tf=True, and save them"
    ),
    OtherForm(("flax_model*.msgpack",), "Flax weights", "load them with transformers 4 and from_flax=True, and save them"),
    OtherForm(("*.distcp", "*/*.distcp"), "the shards of FSDP", "merge them with `accelerate merge-weights`"),
    OtherForm(("zero_pp_rank_*", "global_step*/*"), "the shards of DeepSpeed", "merge them with its zero_to_fp32.py"),
    OtherForm(("*.pt", "*.pth", "*.ckpt"), "a pickle", "load it as it was saved, and save the model with save_pretrained"),
)
"""The first whose files are there is named."""


def check_weights(folder: Path, *, allow_pickle: bool) -> None:
    """Raises ExportError, with the mend, unless `folder` has all weights in a form that transformers loads."""
    pickles = sorted(folder.glob(PICKLES))
    if any(folder.glob(SAFETENSORS)):
        _check_complete(folder)
    elif pickles and allow_pickle:
        _check_shards(folder, PICKLE_INDEX)
    elif pickles:
        raise ExportError(
            f"{folder} has no safetensors weights (found: {', '.join(sorted(path.name for path in folder.glob('*')))}); "
            "save it with safe_serialization=True, or trust its pickle files with --allow-pickle"
        )
    else:
        found = ((form, path) for form in OTHER_FORMS for pattern in form.patterns for path in sorted(folder.glob(pattern)))
        form, path = next(found, (None, folder))
        instead = "" if form is None else f", but {form.name} ({path.relative_to(folder)})"
        mend = "save the model with save_pretrained" if form is None else form.mend
        kinds = "safetensors or pickled" if allow_pickle else "safetensors"
        raise ExportError(f"{folder} has no {kinds} weights{instead}; expected those of a PyTorch model: {mend}")


def check_tensors(folder: Path) -> None:
    """Raises ExportError unless the tensors of the safetensors files that transformers loads are floating-point numbers.

    transformers converts weights to float32 as they are: without their scales, quantized weights would make another model.
    """
    for path in safetensors_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    _check_tensor(f"{path} has the weights {name:.200}", name, file.get_slice(name))
        except SafetensorError as error:
            if "not valid UTF-8" in str(error):  # the path
                raise
            raise ExportError(
                f"{path} cannot be read: {first_line(error)}; expected a whole safetensors file: download or copy it again"
            ) from error


def _check_tensor(what: str, name: str, tensor: Any) -> None:
    """Raises ExportError, which begins with `what`, for a weight that is empty, or of integers or of fewer than 16 bits."""
    if not name.endswith((".weight", ".bias")):
        return
    if (kind := tensor.get_dtype()) not in FLOATS:
        raise ExportError(
            f"{what} of the type {kind}; expected float32, float16 or bfloat16: export the checkpoint that it was quantized from"
        )
    if 0 in tensor.get_shape():
        raise ExportError(
            f"{what} without any numbers, as DeepSpeed's ZeRO-3 leaves them; expected all of them: merge the shards that it saved "
            "with its zero_to_fp32.py"
        )


def safetensors_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads: the one with all weights, or else the shards that its index names."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    return sorted(folder / name for name in _shards(folder, SAFE_WEIGHTS_INDEX_NAME) if (folder / name).is_file())


def weights_size(folder: Path, *, safetensors: bool) -> int:
    """Bytes of the files of weights."""
    return sum(file.stat().st_size for file in folder.glob(SAFETENSORS if safetensors else PICKLES))


def check_has_config(folder: Path) -> None:
    """Raises ExportError, which names checkpoints in it, unless `folder` is a checkpoint's own folder."""
    if (folder / CONFIG).is_file():
        return
    inside = [path.parent for path in sorted(folder.glob(f"*/{CONFIG}"))]
    checkpoints = [each for each in inside if any(any(each.glob(name)) for name in (SAFETENSORS, PICKLES))]
    if not checkpoints:
        raise ExportError(f"{folder} has no {CONFIG}; expected a Hugging Face checkpoint folder")
    names = ", ".join(each.name for each in checkpoints[:SHOWN])
    raise ExportError(
        f"{folder} has no {CONFIG}, but is the folder of {names:.200}{' …' if len(checkpoints) > SHOWN else ''}; expected a "
        f"checkpoint's own folder, such as {checkpoints[0]}"
    )


def _check_complete(folder: Path) -> None:
    """Raises ExportError unless transformers finds all weights of the safetensors files in `folder`."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return
    if not (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        names = ", ".join(sorted(path.name for path in folder.glob(SAFETENSORS)))
        raise ExportError(
            f"{folder} has the weights {names:.200}, but neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}, which says "
            "what is in which file; expected one of them: copy it from where the weights come from"
        )
    _check_shards(folder, SAFE_WEIGHTS_INDEX_NAME)


def _check_shards(folder: Path, index: str) -> None:
    """Raises ExportError if a file that the index names is not there."""
    if missing := sorted(name for name in _shards(folder, index) if not (folder / name).is_file()):
        names = ", ".join(missing[:SHOWN])
        raise ExportError(
            f"{folder} lacks {names:.200}{' …' if len(missing) > SHOWN else ''}, which its {index} names; expected all files of "
            "weights: download or copy the folder again"
        )


def _shards(folder: Path, index: str) -> set[str]:
    """The names of the files in an index; none if there is no index, or none that names files."""
    shards = read_json(folder / index).get("weight_map") if (folder / index).is_file() else None
    return {name for name in shards.values() if isinstance(name, str)} if isinstance(shards, dict) else set()
