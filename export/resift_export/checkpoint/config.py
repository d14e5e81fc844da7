"""config: the configuration files beside a checkpoint's weights, read as sentence-transformers' CrossEncoder reads them.

Source: cross_encoder/model.py, base/model.py and base/modules/transformer.py of sentence-transformers 6.2
(https://github.com/UKPLab/sentence-transformers).
config_sentence_transformers.json and the modules' own files count only if modules.json exists and the former names a CrossEncoder;
otherwise only config.json counts. Reading them runs no code of the checkpoint.
"""

from __future__ import annotations

import codecs
import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from resift.errors import ExportError, first_line
from resift.files.whole import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from resift.artifact.manifest import Activation

CONFIG, MODULES, SETTINGS = "config.json", "modules.json", "config_sentence_transformers.json"
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""File names of the settings of a Transformer module; the first file that exists is read."""
ACTIVATIONS: dict[str, Activation] = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "sigmoid"}
"""By class name of torch's activation; the softmax of two labels is the sigmoid of their log-odds."""
KNOWN_MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
JSON_LIMIT = 1 << 26
"""Maximum size of a configuration file in bytes."""
WEIGHTED_MODULES = ("Dense", "LayerNorm")
DENSE_ACTIVATION = re.compile(r"torch\.nn\.(modules\.(activation|linear)\.)?[A-Z]\w*")
COUNT, COUNT_LIMIT = re.compile("(layer|group|block|head)s?$|(depth|group_num|num_labels)$"), 1000
"""Names of numbers in config.json that transformers may build as many modules or names for, and the limit on such a number."""
ALTERNATIVES = "use an encoder with a scoring head, such as BAAI/bge-reranker-v2-m3 or Alibaba-NLP/gte-reranker-modernbert-base"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Module:
    """A module of a CrossEncoder."""

    kind: str
    """the name of its class"""
    path: str
    """its folder inside the checkpoint's folder; empty: the checkpoint's folder itself"""


@dataclass(frozen=True)
class CheckpointConfig:
    """The contents of a checkpoint's configuration files."""

    model_config: Mapping[str, Any]
    """config.json"""
    modules: tuple[Module, ...] = ()
    """in order; empty without modules.json"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """config_sentence_transformers.json, if it counts"""
    transformer: Mapping[str, Any] = field(default_factory=dict)
    """the settings of the Transformer module, if they count"""

    @property
    def is_modular(self) -> bool:
        """Whether other modules than the sequence classifier in the checkpoint's folder contribute to the score."""
        return len(self.modules) > 1 or self._task not in ("sequence-classification", None)

    def prompt(self, prompt_name: str | None = None) -> str:
        """The text before every query; empty: none.

        `prompt_name`: the name of one of the prompts, "" for none; None: the default. Raises ExportError if no prompt is so named.
        """
        prompts = self.settings.get("prompts") or {}
        name = self.settings.get("default_prompt_name") if prompt_name is None else prompt_name
        if name is None or prompt_name == "":
            return ""
        if not isinstance(prompts, dict) or not isinstance(name, str) or not isinstance(prompts.get(name), str | None):
            raise ExportError(
                f"{SETTINGS} has default_prompt_name {name!r:.80} and prompts {prompts!r:.80}; expected texts by name"
            )
        if name not in prompts:
            raise ExportError(f"{SETTINGS} has no prompt {name!r:.80}; expected one of {', '.join(prompts) or '(none)'}")
        prompt = prompts[name] or ""
        if not prompt.isprintable() and any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ExportError(f"the prompt {name!r:.80} in {SETTINGS} has half of a surrogate pair; expected text")
        return prompt

    @property
    def max_length(self) -> int | None:
        """The longest pair that the Transformer module's settings allow, in tokens; None: they set no limit."""
        limits = [
            self.transformer.get("max_seq_length"),
            *(_section(self.transformer, name).get("model_max_length") for name in ("processor_kwargs", "tokenizer_args")),
            *(_section(_section(self.transformer, "processing_kwargs"), name).get("max_length") for name in ("text", "common")),
        ]
        lengths = [length for length in limits if length is not None]
        if invalid := [length for length in lengths if not isinstance(length, int) or isinstance(length, bool) or length < 1]:
            raise ExportError(
                f"the settings of the Transformer module limit pairs to {invalid[0]!r:.80}; expected a number of tokens"
            )
        return min(lengths, default=None)

    @property
    def is_lower_case(self) -> bool:
        """Whether texts are converted to lower case before the tokenizer's own normalization."""
        return bool(self.transformer.get("do_lower_case", False))

    @property
    def reads_messages(self) -> bool:
        """Whether the Transformer module's settings say that it joins a pair by a chat template."""
        return "message" in _section(self.transformer, "modality_config")

    @property
    def _task(self) -> str | None:
        """The Transformer module's task; None where it has no settings of its own."""
        if not self.modules:
            return None
        return str(self.transformer.get("transformer_task", "feature-extraction"))

    def scale(self, labels: int, requested: str | None = None) -> str:
        """The activation, one of ACTIVATIONS, by which CrossEncoder turns this checkpoint's logits into scores.

        `requested`: the name of the activation, in lower case, that counts instead of what the files say. Raises ExportError if the
        activation is not supported.

        The first of these that is present counts: activation_fn in config_sentence_transformers.json, activation_fn under
        sentence_transformers in config.json, sbert_ce_default_activation_function in config.json, Sigmoid for one label and
        Identity for more. A class outside torch would be the checkpoint's own code: it is ignored with a warning, and CrossEncoder
        ignores it too.
        """
        declared = self._activations() if requested is None else [("--activation", f"torch.nn.{requested.capitalize()}")]
        for name, activation in declared:
            if not str(activation).startswith("torch."):
                log.warning("warning   %s declares the activation %s, which is not torch's: ignored", name, f"{activation!s:.80}")
                continue
            kind = str(activation).rsplit(".", 1)[-1]
            if kind not in ACTIVATIONS or (kind == "Softmax" and labels == 1):
                raise ExportError(
                    f"{name} declares the activation {activation!s:.80} for {labels} label{'s' if labels > 1 else ''}; "
                    f"expected one of {', '.join(ACTIVATIONS)} (Softmax for two labels or more): --activation "
                    "names the one that counts instead"
                )
            return kind
        return "Sigmoid" if labels == 1 else "Identity"

    def _activations(self) -> Iterator[tuple[str, object]]:
        """Each file that declares an activation, and the activation; the first one counts."""
        if self.settings.get("activation_fn") is not None:
            yield SETTINGS, self.settings["activation_fn"]
        model_settings = _section(self.model_config, "sentence_transformers", CONFIG)
        activation = (
            model_settings["activation_fn"]
            if "activation_fn" in model_settings
            else self.model_config.get("sbert_ce_default_activation_function")
        )
        if activation is not None:
            yield CONFIG, activation


def read_config(folder: Path) -> CheckpointConfig:
    """Reads the files in `folder`. Raises ExportError if the checkpoint cannot be exported, with the reason and the remedy."""
    model_config = read_json(folder / CONFIG)
    if not (folder / MODULES).is_file():
        return CheckpointConfig(model_config)
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if settings.get("model_type", "SentenceTransformer") != "CrossEncoder":
        return CheckpointConfig(model_config)  # an embedding model or a sequence classifier, which its weights will show
    settings_file = next((folder / name for name in TRANSFORMER_FILES if (folder / name).is_file()), None)
    return CheckpointConfig(model_config, tuple(_modules(folder)), settings, read_json(settings_file) if settings_file else {})


def check_kind(config: CheckpointConfig, source: str) -> None:
    """Raises ExportError, with an alternative, if the checkpoint is not a cross-encoder or is one that resift cannot run."""
    architectures = config.model_config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else ""
    kind = re.search(r"(For[A-Z]\w*|LMHeadModel)$", architecture) if isinstance(architecture, str) else None
    is_decoder = kind is not None and kind[0] in ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
    if is_decoder or config.reads_messages or any(module.kind == "LogitScore" for module in config.modules):
        raise ExportError(
            f"{source} is a generative model ({architecture:.80}), which scores a pair by the logits of its next token, such as "
            f"yes and no, after a chat template; resift runs encoders, which are many times faster on a CPU: {ALTERNATIVES}"
        )
    if not config.is_modular and kind is not None and kind[0] != "ForSequenceClassification":
        raise ExportError(
            f"{source} is a {architecture:.80}; expected a cross-encoder, a ...ForSequenceClassification: {ALTERNATIVES}"
        )


def check_readable(config: CheckpointConfig, source: str) -> None:
    """Raises ExportError if config.json says that the weights are quantized, or has a mask, labels or counts of no encoder."""
    if quantization := config.model_config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
        raise ExportError(
            f"{source} has quantized weights (quantization_config: {method!s:.80}); expected weights in float32, float16 or "
            "bfloat16: export the checkpoint that it was quantized from"
        )
    if config.model_config.get("is_decoder"):
        raise ExportError(
            f"{source} has is_decoder true in its {CONFIG}, with which a token reads only those before it, so that the first one, "
            "by which pairs are scored, reads none; expected false: set it so if the model was trained as an encoder"
        )
    if not isinstance(names := config.model_config.get("id2label"), dict | None):
        raise ExportError(f"{source} has id2label {names!r:.80} in {CONFIG}; expected an object with the name of each label")
    for name, value in config.model_config.items():
        if COUNT.search(name) and isinstance(value, int) and value > COUNT_LIMIT:
            raise ExportError(
                f"{source} has {name:.80} {value!s:.40} in {CONFIG}; expected at most {COUNT_LIMIT}: save the model's own {CONFIG} "
                "with it"
            )


def foreign_code(source: str, what: str) -> ExportError:
    """The error for a checkpoint that cannot be loaded without running one of its own files."""
    return ExportError(
        f"{source} needs code of its own ({what:.80}), which resift never runs; "
        "expected an architecture that transformers and sentence-transformers have built in: look for a version of the checkpoint "
        "that was saved for such an architecture, or for another checkpoint"
    )


def _modules(folder: Path) -> Iterator[Module]:
    """The modules that modules.json lists, of kinds that can be exported."""
    entries = read_json(folder / MODULES, list)
    for number, entry in enumerate(entries):
        path, kind = (entry.get(name) for name in ("path", "type")) if isinstance(entry, dict) else (None, None)
        if not isinstance(path, str) or not isinstance(kind, str):
            raise ExportError(f"{folder / MODULES} lists {entry!r:.80}; expected a module with path and type")
        if not kind.startswith("sentence_transformers."):
            raise foreign_code(str(folder), f"the module {kind}")
        module_path, name = PurePosixPath(path), kind.rsplit(".", 1)[-1]
        if module_path.is_absolute() or ".." in module_path.parts or "\\" in path:
            raise ExportError(f"{folder / MODULES} lists the path {path!r:.80}; expected one inside the checkpoint's folder")
        if name != "LogitScore" and (name not in KNOWN_MODULES or (name == "Transformer") != (number == 0)):
            raise ExportError(
                f"{folder / MODULES} has {name:.80} as module {number}; expected a Transformer first, then any of "
                f"{', '.join(KNOWN_MODULES[1:])}"
            )
        if number == 0 and path:
            raise ExportError(f"{folder / MODULES} has its Transformer in {path!r:.80}; expected it in the checkpoint's own folder")
        if name == "Dense":
            _check_dense(folder / path / CONFIG)
        yield Module(name, path)


def _check_dense(path: Path) -> None:
    """Raises ExportError unless the activation is a class of torch.nn: sentence-transformers would create any class of torch."""
    activation = read_json(path).get("activation_function", "torch.nn.Tanh")
    if not isinstance(activation, str) or not DENSE_ACTIVATION.fullmatch(activation):
        raise ExportError(f"{path} has activation_function {activation!r:.80}; expected a class of torch.nn, such as torch.nn.Tanh")


def check_mark(path: Path, content: bytes) -> None:
    """Raises ExportError if the content of a file begins with a byte-order mark, which transformers and tokenizers do not read."""
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ExportError(f"{path} begins with a byte-order mark; expected UTF-8 without one: save it again so")


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file of that type. Raises ExportError if it cannot be read, or holds something else."""
    try:
        content = read_whole(path, JSON_LIMIT)
        check_mark(path, content)
        content = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, kind):
        raise ExportError(f"{path} holds {content!r:.80}; expected {'a list' if kind is list else 'an object'}")
    return content


def _section(content: Mapping[str, Any], name: str, source: str = "the settings of the Transformer module") -> Mapping[str, Any]:
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise ExportError(f"{source} has {name} {section!r:.80}; expected an object")
    return section
