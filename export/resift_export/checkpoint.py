"""Checkpoint: trained weights and their tokenizer, from a folder, or from a hub at a pinned revision."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from resift.artifact import path_text
from resift.errors import ExportError, InputError
from resift.manifest import RELEVANCE, Activation, Relevance, Signature
from resift.pairs import PairTokenizer
from resift.scoring import relevance
from resift_export.progress import reported, unreported

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from resift_export.progress import Report

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
TEXTS = ("*.json", "*.txt", "*.model", "README.md", "LICENSE*")
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
"""Files in which tokenizers keep their vocabulary."""
ACTIVATIONS: dict[str, Activation] = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "sigmoid"}
"""torch's activation by class name; the softmax of two labels is the sigmoid of their log-odds."""
REFERENCE_BATCH = 16
MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, StrictDataclassError)
"""What transformers raises for malformed configuration files, which it reads without validation."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded cross-encoder, in float32 and evaluation mode."""

    folder: Path
    id: str
    revision: str | None
    model: Any
    tokenizer: Any
    activation: Activation
    max_length: int

    @property
    def vocabulary(self) -> int:
        """Number of token ids that have an embedding."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return int(self.model.config.num_hidden_layers)

    @property
    def signature(self) -> Signature:
        """What its graph reads (token ids and, if the model uses them, segment ids) and how many labels it outputs."""
        reads_segments = getattr(self.model.config, "type_vocab_size", 0) > 1
        return Signature.of(labels=int(self.model.config.num_labels), segment_ids=reads_segments)

    @property
    def relevance(self) -> Relevance:
        """Which function of the logits pairs are ranked by."""
        return RELEVANCE[self.signature.labels]

    def parameters(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Name and values of each of its weights."""
        return ((name, tensor.detach().numpy()) for name, tensor in self.model.named_parameters())

    def tokenizer_json(self) -> bytes:
        """The tokenizer as tokenizer.json, without truncation and padding: the engine does its own."""
        content: dict[str, Any] = json.loads(self.tokenizer.backend_tokenizer.to_str())
        content["truncation"] = content["padding"] = None
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    def reference(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Relevance logits float32[n] by PyTorch, with the tokenizer's own pair encoding: what parity is measured against.

        Raises InputError for a query that would leave the document less than a quarter of the room.
        """
        return self.references([(query, documents)])[0]

    def references(self, pools: Sequence[tuple[str, Sequence[str]]], report: Report = unreported) -> list[NDArray[np.float32]]:
        """`reference` of each query and its documents; pairs of similar length share a batch, whichever pools they are from."""
        tokenizer = PairTokenizer(self.tokenizer_json(), self.max_length)
        for query, _ in pools:
            if over := tokenizer.encode(query, [""]).query_tokens_cut:
                raise InputError(f"the query {query[:60]!r} is {over} tokens too long for {self.id}; shorten it")
        pairs = [(query, document) for query, documents in pools for document in documents]
        order = sorted(range(len(pairs)), key=lambda at: sum(map(len, pairs[at])))
        logits = np.empty((len(pairs), self.signature.labels), np.float32)
        batches = [order[start : start + REFERENCE_BATCH] for start in range(0, len(order), REFERENCE_BATCH)]
        for batch in reported("reference", batches, report):
            logits[batch] = self._logits([pairs[at] for at in batch])
        ends = np.cumsum([len(documents) for _, documents in pools])
        return np.split(relevance(logits, self.relevance), ends[:-1])

    def release(self) -> None:
        """Gives the weights' memory back: from here on it says only what its configuration says."""
        self.model.to("meta")

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """float32[n, labels] by PyTorch."""
        queries, documents = zip(*pairs, strict=True)
        encoded = self.tokenizer(
            list(queries), list(documents), truncation="only_second", max_length=self.max_length, padding=True, return_tensors="pt"
        )
        names = (*self.signature.inputs, "attention_mask")
        with torch.inference_mode():
            return self.model(**{name: encoded[name] for name in names}).logits.float().numpy()  # type: ignore[no-any-return]


def load(source: str, *, revision: str | None = None, name: str | None = None, allow_pickle: bool = False) -> Checkpoint:
    """Loads a folder or a hub id. Weights are read from safetensors only, unless `allow_pickle`; no code from it is run.

    Raises ExportError, which says what is missing.
    """
    local = folder_of(source)
    folder, commit = (local, None) if local else download(source, revision, allow_pickle=allow_pickle)
    if revision is not None and commit is None:
        raise ExportError(f"{source} is a folder and has no revision {revision}; leave --revision out")
    if not (folder / "config.json").is_file():
        raise ExportError(f"{folder} has no config.json; expected a Hugging Face checkpoint folder")
    if not allow_pickle and not any(folder.glob("*.safetensors")):
        raise ExportError(
            f"{folder} has no safetensors weights (found: {', '.join(sorted(path.name for path in folder.iterdir()))}); "
            "save it with safe_serialization=True, or trust its pickle files with --allow-pickle"
        )
    model = _load_model(folder, safetensors=any(folder.glob("*.safetensors")))
    tokenizer = _load_tokenizer(folder)
    if model.config.num_labels not in RELEVANCE:
        raise ExportError(
            f"{source} has {model.config.num_labels} labels; expected those of a reranker: 1 (relevance) or 2 (no, yes)"
        )
    checkpoint = Checkpoint(
        folder=folder,
        id=path_text(name or (source if commit else Path(os.path.realpath(folder)).name)),
        revision=commit,
        model=model,
        tokenizer=tokenizer,
        activation=activation_of(json.loads((folder / "config.json").read_bytes()), model.config.num_labels),
        max_length=max_length_of(model, tokenizer),
    )
    _check_vocabulary(checkpoint)
    _check_tokenizer(checkpoint)
    return checkpoint


def folder_of(source: str) -> Path | None:
    """The folder that `source` names; None if there is none, in which case it can only be a hub id."""
    return Path(source) if os.path.isdir(source) else None  # noqa: PTH112 - Path.is_dir raises if a name is too long


def download(source: str, revision: str | None, *, allow_pickle: bool) -> tuple[Path, str]:
    """The downloaded folder of a hub id at `revision` (None: the latest), and its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = [*TEXTS, *WEIGHTS, *(PICKLED_WEIGHTS if allow_pickle else ())]
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise ExportError(f"{source!r:.200} is neither a folder nor a hub id such as org/name") from error
    except (OSError, ValueError) as error:
        # Every error of the hub's client is one of these: no network, offline mode, no such model or revision, no access.
        raise ExportError(
            f"{source!r:.200} is not a folder and could not be downloaded from the hub "
            f"({type(error).__name__}: {_first_line(error)}); "
            "name a checkpoint folder, or check the connection, the id, the revision and your access"
        ) from error
    return folder, folder.name


def activation_of(config: dict[str, Any], labels: int) -> Activation:
    """How sentence-transformers turns this checkpoint's logits into scores.

    https://github.com/UKPLab/sentence-transformers: CrossEncoder reads config.sentence_transformers.activation_fn, then
    sbert_ce_default_activation_function, then takes sigmoid for one label and identity otherwise.
    """
    own = config.get("sentence_transformers", {})
    if not isinstance(own, dict):
        raise ExportError(f"config.json has sentence_transformers {own!r:.80}; expected an object")
    declared = own.get("activation_fn") or config.get("sbert_ce_default_activation_function")
    if declared is None:
        return "sigmoid" if labels == 1 else "identity"
    activation = ACTIVATIONS.get(str(declared).rsplit(".", 1)[-1])
    if activation is None:
        raise ExportError(f"config.json declares the activation {declared}; expected one of {', '.join(ACTIVATIONS)}")
    return activation


def max_length_of(model: Any, tokenizer: Any) -> int:
    """Longest pair, in tokens with special tokens, that the model has positions for and that its tokenizer allows.

    RoBERTa-like models number positions from the padding index + 1, so they have that many fewer.
    """
    config = model.config
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ExportError(
            f"tokenizer_config.json has model_max_length {tokenizer.model_max_length!r:.80}; expected a number of tokens"
        )
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    embeddings = [module for module in model.modules() if hasattr(module, "position_embeddings")]
    padding = next((module.position_embeddings.padding_idx for module in embeddings if _is_table(module.position_embeddings)), None)
    if padding is not None:
        positions -= padding + 1
    return int(min(positions, tokenizer.model_max_length))


def _first_line(error: Exception) -> str:
    """The first line of an error's message, shortened, or its type if the message is empty."""
    return f"{next(iter(str(error).splitlines()), type(error).__name__):.300}"


def _is_table(module: Any) -> bool:
    return isinstance(module, torch.nn.Embedding)


def _load_model(folder: Path, *, safetensors: bool) -> Any:
    try:
        # SDPA, the default, is traced as one Attention node; architectures without it use separate matrix products.
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=safetensors, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (*MALFORMED, SafetensorError) as error:
        raise ExportError(f"transformers {transformers.__version__} cannot load {folder}: {_first_line(error)}") from error
    model, loaded = model
    if missing := loaded["missing_keys"]:
        raise ExportError(
            f"{folder} lacks the weights {', '.join(sorted(missing)[:5])}{' …' if len(missing) > 5 else ''} of "
            f"{type(model).__name__}; expected a trained sequence classifier (not an embedding model)"
        )
    return model.eval()


def _load_tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in VOCABULARIES):
        # transformers would silently create an empty tokenizer.
        raise ExportError(f"{folder} has no tokenizer; expected one of {', '.join(VOCABULARIES)}")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except MALFORMED as error:
        raise ExportError(f"{folder} has no tokenizer that transformers can load: {_first_line(error)}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ExportError(f"{folder} has only a slow tokenizer, {type(tokenizer).__name__}; expected one with a tokenizer.json")
    return tokenizer


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    """Every token id must have an embedding."""
    largest = max(checkpoint.tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= checkpoint.vocabulary:
        raise ExportError(
            f"the tokenizer of {checkpoint.folder} has token ids up to {largest}, but the model has "
            f"{checkpoint.vocabulary} embeddings; expected one for every id: save the model's own tokenizer with it"
        )


def _check_tokenizer(checkpoint: Checkpoint) -> None:
    """The engine joins query and document itself; the result must equal the tokenizer's own pair encoding."""
    query, document = "where do rivers begin", "Rivers begin at springs, glaciers or lakes, and in bogs."
    own = checkpoint.tokenizer(query, document)
    ids, segment_ids = PairTokenizer(checkpoint.tokenizer_json(), checkpoint.max_length).encode(query, [document]).row(0)
    same_segments = not checkpoint.signature.segment_ids or own.get("token_type_ids") == segment_ids.tolist()
    if own["input_ids"] != ids.tolist() or not same_segments:
        raise ExportError(
            f"tokenizer.json encodes a pair as {ids.tolist()}, "
            f"{type(checkpoint.tokenizer).__name__} as {own['input_ids']}; expected the same: "
            "save the tokenizer again with its fast version"
        )
