"""Checkpoint: trained weights and their tokenizer, from a folder, or from a hub at a pinned revision."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from resift.artifact.manifest import RELEVANCE, Activation, Relevance, Signature
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ExportError, InputError
from resift.files.names import path_text
from resift.scoring import relevance
from resift_export.checkpoint import config as declarations
from resift_export.checkpoint import sentence_transformers as encoders
from resift_export.checkpoint.config import CONFIG, WEIGHTED_MODULES
from resift_export.checkpoint.layers import compacted
from resift_export.checkpoint.network import Network, check_steps, label_of
from resift_export.checkpoint.source import download, folder_of
from resift_export.checkpoint.transformers import load_model, load_tokenizer
from resift_export.memory import give_back, unload
from resift_export.progress import reported, unreported

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from resift_export.checkpoint.network import Label
    from resift_export.progress import Report

REFERENCE_PAIRS, REFERENCE_TOKENS = 16, 8192
"""Most pairs of a batch of references, and tokens with padding: a pair of 8,192 tokens is alone, not 16 as long."""
COMMIT = re.compile("[0-9a-f]{40}")


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
    labels: int = 1
    """logits that the model gives for a pair"""
    label: Label | None = None
    """the one that means relevant, where it was chosen"""
    prompt: str = ""
    """put before every query"""
    encoder: Any | None = None
    """the same in sentence-transformers, if that is installed"""
    is_modular: bool = False
    """whether the encoder's other modules make the score"""

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
        return Signature.of(labels=1 if self.label else self.labels, segment_ids=reads_segments)

    @property
    def relevance(self) -> Relevance:
        """Which function of the logits pairs are ranked by."""
        return RELEVANCE[self.signature.labels]

    @property
    def architecture(self) -> str:
        """The class of its model, and those of its other modules."""
        steps = list(self.encoder)[1:] if self.is_modular and self.encoder is not None else []
        return " + ".join(type(module).__name__ for module in (self.model, *steps))

    @property
    def referee(self) -> str:
        """What gives its reference logits, with the version."""
        return f"transformers {transformers.__version__}" if self.encoder is None else encoders.name()

    def network(self) -> Network:
        """The function that is traced, without heads and inner units that give nothing."""
        model = self.model if self.is_modular else compacted(self.model)
        return Network(
            model, tuple(self.signature.inputs), encoder=self.encoder if self.is_modular else None, label=self.label
        ).eval()

    def parameters(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Name and values of each of its weights, as `network` has them."""
        source = self.encoder if self.is_modular and self.encoder is not None else compacted(self.model)
        return ((name, tensor.detach().numpy()) for name, tensor in source.named_parameters())

    def pair_tokenizer(self) -> PairTokenizer:
        """The engine's tokenizer for it."""
        return PairTokenizer(self.tokenizer_json(), self.max_length, prompt=self.prompt)

    def tokenizer_json(self) -> bytes:
        """The tokenizer as tokenizer.json, without truncation and padding: the engine does its own."""
        content: dict[str, Any] = json.loads(self.tokenizer.backend_tokenizer.to_str())
        content["truncation"] = content["padding"] = None
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    def reference(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Relevance logits float32[n] by the `referee`, with the tokenizer's own pair encoding: what parity is measured against.

        Raises InputError for a query that would leave the document less than a quarter of the room.
        """
        return self.references([(query, documents)])[0]

    def references(self, pools: Sequence[tuple[str, Sequence[str]]], report: Report = unreported) -> list[NDArray[np.float32]]:
        """`reference` of each query and its documents; pairs of similar length share a batch, whichever pools they are from."""
        tokenizer = self.pair_tokenizer()
        lengths: list[int] = []
        for query, documents in pools:
            encodings = tokenizer.encode(query, documents)
            if over := encodings.query_tokens_cut:
                raise InputError(f"the query {query[:60]!r} is {over} tokens too long for {self.id}; shorten it")
            lengths += encodings.lengths.tolist()
        pairs = [(query, document) for query, documents in pools for document in documents]
        found = np.empty(len(pairs), np.float32)
        for batch in reported("reference", _batches(lengths), report):
            found[batch] = self._relevance([pairs[at] for at in batch])
        ends = np.cumsum([len(documents) for _, documents in pools])
        return np.split(found, ends[:-1])

    def release(self) -> None:
        """Gives the weights' memory back: from here on it says only what its configuration says."""
        networks = [self.model] if self.encoder is None else [self.model, self.encoder]
        # Tracing leaves aliases of the tensors alive, and they their file mapped.
        unload({tensor.data_ptr() for network in networks for tensor in network.parameters()})
        for network in networks:
            network.to("meta")
        give_back()

    def _relevance(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """float32[n]: what pairs are ranked by."""
        if self.encoder is not None:
            logits = encoders.predict(self.encoder, pairs, self.max_length)
        else:
            logits = self._by_transformers(pairs)
        if self.label is not None:
            logits = self.label.of(torch.from_numpy(logits)).numpy()
        return relevance(logits, self.relevance)

    def _by_transformers(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Logits float32[n, labels] of the sequence classifier."""
        queries = [f"{self.prompt}{query}" for query, _ in pairs]
        documents = [document for _, document in pairs]
        encoded = self.tokenizer(
            queries, documents, truncation="only_second", max_length=self.max_length, padding=True, return_tensors="pt"
        )
        names = (*self.signature.inputs, "attention_mask")
        with torch.inference_mode():
            return self.model(**{name: encoded[name] for name in names}).logits.float().numpy()  # type: ignore[no-any-return]


def load(  # noqa: PLR0913 - the options of the command line, by name
    source: str,
    *,
    revision: str | None = None,
    name: str | None = None,
    allow_pickle: bool = False,
    relevant_label: str | None = None,
    prompt_name: str | None = None,
) -> Checkpoint:
    """Loads a folder or a hub id. Weights are read from safetensors only, unless `allow_pickle`; no code from it is run.

    `relevant_label`: of a head with several labels, the name or number of the one that means relevant. `prompt_name`: of the
    checkpoint's prompts, the one to put before every query ("": none; None: its default). Raises ExportError, which says what is
    missing, and ExtraError for a modular checkpoint without sentence-transformers.
    """
    local = folder_of(source)
    folder, commit = (local, _commit_of(local)) if local else download(source, revision, allow_pickle=allow_pickle)
    if revision is not None and local:
        raise ExportError(f"{source} is a folder and has no revision {revision}; leave --revision out")
    if not (folder / CONFIG).is_file():
        raise ExportError(f"{folder} has no config.json; expected a Hugging Face checkpoint folder")
    declared = declarations.read(folder)
    declarations.check_kind(declared, source)
    weighted = [folder, *(folder / module.path for module in declared.modules if module.kind in WEIGHTED_MODULES)]
    for place in weighted:
        if not allow_pickle and not any(place.glob("*.safetensors")):
            raise ExportError(
                f"{place} has no safetensors weights (found: {', '.join(sorted(path.name for path in place.glob('*')))}); "
                "save it with safe_serialization=True, or trust its pickle files with --allow-pickle"
            )
    safetensors = any(folder.glob("*.safetensors"))
    model, unused = load_model(folder, declared, safetensors=safetensors)
    tokenizer = load_tokenizer(folder, declared)
    prompt = declared.prompt(prompt_name)
    encoder = encoders.load(folder, declared, model, unused, safetensors=safetensors)
    if encoder is not None and prompt_name is not None:
        encoder.default_prompt_name = prompt_name or None
    if declared.is_modular:
        check_steps(encoder, prompt, source)
    labels = int(encoder.num_labels if declared.is_modular and encoder is not None else model.config.num_labels)
    checkpoint = Checkpoint(
        folder=folder,
        id=path_text(name or (Path(os.path.realpath(folder)).name if local else source)),
        revision=commit,
        model=model,
        tokenizer=tokenizer,
        activation=declared.activation(labels),
        max_length=min(max_length_of(model, tokenizer), declared.max_length or sys.maxsize),
        labels=labels,
        label=label_of(model.config, labels, declared, relevant_label, source),
        prompt=prompt,
        encoder=encoder,
        is_modular=declared.is_modular,
    )
    _check_vocabulary(checkpoint)
    _check_tokenizer(checkpoint)
    return checkpoint


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of pairs of so many tokens each, similar ones together, as many as REFERENCE_PAIRS and REFERENCE_TOKENS allow."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        pairs = len(batches[-1]) + 1 if batches else 0
        if not 0 < pairs <= min(REFERENCE_PAIRS, REFERENCE_TOKENS // lengths[number]):
            batches.append([])
        batches[-1].append(number)
    return batches


def _commit_of(folder: Path) -> str | None:
    """The commit of a folder in the hub client's cache, which is named after it; None for any other folder.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    return folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else None


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


def _is_table(module: Any) -> bool:
    return isinstance(module, torch.nn.Embedding)


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    """Every token id must have an embedding."""
    largest = max(checkpoint.tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= checkpoint.vocabulary:
        raise ExportError(
            f"the tokenizer of {checkpoint.folder} has token ids up to {largest}, but the model has "
            f"{checkpoint.vocabulary} embeddings; expected one for every id: save the model's own tokenizer with it"
        )


def _check_tokenizer(checkpoint: Checkpoint) -> None:
    """The engine joins query and document and cuts long documents; the result must equal the tokenizer's own pair encoding."""
    query, document = "where do rivers begin", "Rivers begin at springs, glaciers or lakes, and in bogs."
    texts = [document, f"{document} " * (checkpoint.max_length // len(document.split()) + 1)]  # the second has to be cut
    encodings = checkpoint.pair_tokenizer().encode(query, texts)
    for number, text in enumerate(texts):
        own = checkpoint.tokenizer(f"{checkpoint.prompt}{query}", text, truncation="only_second", max_length=checkpoint.max_length)
        ids, segment_ids = encodings.row(number)
        same_segments = not checkpoint.signature.segment_ids or own.get("token_type_ids") == segment_ids.tolist()
        if own["input_ids"] != ids.tolist() or not same_segments:
            raise ExportError(
                f"tokenizer.json encodes a pair as {ids.tolist()!s:.300}, "
                f"{type(checkpoint.tokenizer).__name__} as {own['input_ids']!s:.300}; expected the same: "
                "save the tokenizer again with its fast version"
            )
