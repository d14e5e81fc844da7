"""declared: what the files beside a checkpoint's weights say about it, read as sentence-transformers' CrossEncoder reads them.

Source: cross_encoder/model.py, base/model.py and base/modules/transformer.py of sentence-transformers 6.2
(https://github.com/UKPLab/sentence-transformers).
config_sentence_transformers.json and the modules' own files count only where modules.json is there and the former names a
CrossEncoder; otherwise config.json alone counts. Nothing here runs anything.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from resift.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from resift.artifact.manifest import Activation

CONFIG, MODULES, SETTINGS = "config.json", "modules.json", "config_sentence_transformers.json"
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names under which the settings of a Transformer module are looked for, in this order."""
ACTIVATIONS: dict[str, Activation] = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "sigmoid"}
"""torch's activation by class name; the softmax of two labels is the sigmoid of their log-odds."""
KNOWN_MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
WEIGHTED_MODULES = ("Dense", "LayerNorm")
DENSE_ACTIVATION = re.compile(r"torch\.nn\.(modules\.(activation|linear)\.)?[A-Z]\w*")
INSTEAD = "use an encoder with a scoring head, such as BAAI/bge-reranker-v2-m3 or Alibaba-NLP/gte-reranker-modernbert-base"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Module:
    """A step of a CrossEncoder."""

    kind: str
    """the name of its class"""
    path: str
    """its folder inside the checkpoint's; empty: the checkpoint's own"""


@dataclass(frozen=True)
class Declared:
    """What a checkpoint's files say."""

    config: Mapping[str, Any]
    """config.json"""
    modules: tuple[Module, ...] = ()
    """in order; empty without modules.json"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """config_sentence_transformers.json, where it counts"""
    transformer: Mapping[str, Any] = field(default_factory=dict)
    """the settings of the Transformer module, where they count"""

    @property
    def is_modular(self) -> bool:
        """Whether the score comes from more than the sequence classifier in the checkpoint's folder."""
        return len(self.modules) > 1 or self._task not in ("sequence-classification", None)

    def prompt(self, asked: str | None = None) -> str:
        """What is put before every query; empty: nothing.

        `asked`: the name of one of the prompts, "" for none; None: the default. Raises ExportError if there is none of that name.
        """
        prompts, name = self.settings.get("prompts") or {}, self.settings.get("default_prompt_name") if asked is None else asked
        if name is None or asked == "":
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
        """The longest pair that the Transformer module's settings allow, in tokens; None: they do not say."""
        found = [
            self.transformer.get("max_seq_length"),
            *(_part(self.transformer, name).get("model_max_length") for name in ("processor_kwargs", "tokenizer_args")),
            *(_part(_part(self.transformer, "processing_kwargs"), name).get("max_length") for name in ("text", "common")),
        ]
        stated = [length for length in found if length is not None]
        if bad := [length for length in stated if not isinstance(length, int) or isinstance(length, bool) or length < 1]:
            raise ExportError(f"the settings of the Transformer module limit pairs to {bad[0]!r:.80}; expected a number of tokens")
        return min(stated, default=None)

    @property
    def is_lower_case(self) -> bool:
        """Whether texts are put in lower case before the tokenizer's own normalization."""
        return bool(self.transformer.get("do_lower_case", False))

    @property
    def reads_messages(self) -> bool:
        """Whether the Transformer module's settings make it join a pair by a chat template."""
        return "message" in _part(self.transformer, "modality_config")

    @property
    def _task(self) -> str | None:
        """The Transformer module's task; None where it has no settings of its own."""
        if not self.modules:
            return None
        return str(self.transformer.get("transformer_task", "feature-extraction"))

    def activation(self, labels: int) -> Activation:
        """How a pair's relevance becomes its score. Raises like `scale`."""
        return ACTIVATIONS[self.scale(labels)]

    def scale(self, labels: int) -> str:
        """The activation, of ACTIVATIONS, by which CrossEncoder turns this checkpoint's logits into scores.

        Raises ExportError for one that is not supported.

        It is the first of these that is there: activation_fn in config_sentence_transformers.json, activation_fn under
        sentence_transformers in config.json, sbert_ce_default_activation_function in config.json, Sigmoid for one label and
        Identity for more. A class outside torch would be the checkpoint's own code: it is passed over, as by CrossEncoder, with
        a warning.
        """
        for name, declared in self._activations():
            if not str(declared).startswith("torch."):
                log.warning("warning   %s declares the activation %s, which is not torch's: passed over", name, f"{declared!s:.80}")
                continue
            kind = str(declared).rsplit(".", 1)[-1]
            if kind not in ACTIVATIONS or (kind == "Softmax" and labels == 1):
                raise ExportError(
                    f"{name} declares the activation {declared!s:.80} for {labels} label{'s' if labels > 1 else ''}; "
                    f"expected one of {', '.join(ACTIVATIONS)} (Softmax for two labels or more)"
                )
            return kind
        return "Sigmoid" if labels == 1 else "Identity"

    def _activations(self) -> Iterator[tuple[str, object]]:
        """Where an activation is declared, and which; the first one counts."""
        if self.settings.get("activation_fn") is not None:
            yield SETTINGS, self.settings["activation_fn"]
        own = _part(self.config, "sentence_transformers", CONFIG)
        declared = own["activation_fn"] if "activation_fn" in own else self.config.get("sbert_ce_default_activation_function")
        if declared is not None:
            yield CONFIG, declared


def read(folder: Path) -> Declared:
    """Reads the files in `folder`. Raises ExportError for what cannot be exported, with the reason and what to do instead."""
    config = _read(folder / CONFIG)
    if not (folder / MODULES).is_file():
        return Declared(config)
    settings = _read(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if settings.get("model_type", "SentenceTransformer") != "CrossEncoder":
        return Declared(config)  # an embedding model, or the sequence classifier in its folder: its weights tell
    found = next((folder / name for name in TRANSFORMER_FILES if (folder / name).is_file()), None)
    return Declared(config, tuple(_modules(folder)), settings, _read(found) if found else {})


def check_kind(declared: Declared, source: str) -> None:
    """Raises ExportError if the checkpoint is not a cross-encoder, or one that resift cannot run: why, and what to use instead."""
    architectures = declared.config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else ""
    kind = re.search(r"(For[A-Z]\w*|LMHeadModel)$", architecture) if isinstance(architecture, str) else None
    is_decoder = kind is not None and kind[0] in ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
    if is_decoder or declared.reads_messages or any(module.kind == "LogitScore" for module in declared.modules):
        raise ExportError(
            f"{source} is a generative model ({architecture:.80}), which scores a pair by the logits of its next token, such as "
            f"yes and no, after a chat template; resift runs encoders, which are many times faster on a CPU: {INSTEAD}"
        )
    if not declared.is_modular and kind is not None and kind[0] != "ForSequenceClassification":
        raise ExportError(f"{source} is a {architecture:.80}; expected a cross-encoder, a ...ForSequenceClassification: {INSTEAD}")


def foreign_code(source: str, what: str) -> ExportError:
    """The error for a checkpoint that cannot be loaded without running a file of its own."""
    return ExportError(
        f"{source} needs code of its own ({what:.80}), which resift never runs; "
        "expected an architecture that transformers and sentence-transformers have built in: look for a version of the checkpoint "
        "saved for one, or for another checkpoint"
    )


def _modules(folder: Path) -> Iterator[Module]:
    """The modules that modules.json lists, of kinds that can be exported."""
    content = _read(folder / MODULES, list)
    for number, entry in enumerate(content):
        path, kind = (entry.get(name) for name in ("path", "type")) if isinstance(entry, dict) else (None, None)
        if not isinstance(path, str) or not isinstance(kind, str):
            raise ExportError(f"{folder / MODULES} lists {entry!r:.80}; expected a module with path and type")
        if not kind.startswith("sentence_transformers."):
            raise foreign_code(str(folder), f"the module {kind}")
        place, name = PurePosixPath(path), kind.rsplit(".", 1)[-1]
        if place.is_absolute() or ".." in place.parts or "\\" in path:
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
    """Raises ExportError unless the activation is a class of torch.nn: sentence-transformers would create any of torch."""
    declared = _read(path).get("activation_function", "torch.nn.Tanh")
    if not isinstance(declared, str) or not DENSE_ACTIVATION.fullmatch(declared):
        raise ExportError(f"{path} has activation_function {declared!r:.80}; expected a class of torch.nn, such as torch.nn.Tanh")


def _read(path: Path, kind: type = dict) -> Any:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read: {next(iter(str(error).splitlines()), ''):.200}") from error
    if not isinstance(found, kind):
        raise ExportError(f"{path} holds {found!r:.80}; expected {'a list' if kind is list else 'an object'}")
    return found


def _part(content: Mapping[str, Any], name: str, where: str = "the settings of the Transformer module") -> Mapping[str, Any]:
    part = content.get(name) or {}
    if not isinstance(part, dict):
        raise ExportError(f"{where} has {name} {part!r:.80}; expected an object")
    return part
