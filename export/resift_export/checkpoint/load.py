"""Checkpoint: trained weights and their tokenizer, from a folder or from a hub at a pinned revision."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from resift.artifact.manifest import RELEVANCE, Activation, Relevance
from resift.artifact.signature import Signature
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ExportError, InputError
from resift.files.names import path_text
from resift.scoring import relevance
from resift.settings import LARGEST
from resift_export.checkpoint import sentence_transformers as encoders
from resift_export.checkpoint.config import ACTIVATIONS, WEIGHTED_MODULES, check_kind, check_readable, read_config
from resift_export.checkpoint.labels import label_of
from resift_export.checkpoint.layers import compact_copy
from resift_export.checkpoint.loaded import adapter_error
from resift_export.checkpoint.network import Network, check_steps
from resift_export.checkpoint.source import check_downloaded, commit_of, download, folder_of
from resift_export.checkpoint.split import check_whole
from resift_export.checkpoint.tokenizer import SEGMENTS, load_tokenizer, share_tokenizer
from resift_export.checkpoint.transformers import load_model, max_length_of
from resift_export.checkpoint.weights import SAFETENSORS, check_has_config, check_weights
from resift_export.memory import trim_heap, unload
from resift_export.progress import no_report, track

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from resift_export.checkpoint.labels import Label
    from resift_export.progress import Report

REFERENCE_PAIRS, REFERENCE_TOKENS = 16, 8192
"""Limits on the pairs of a batch of references, and on its tokens."""
ADAPTER_CONFIG = "adapter_config.json"
"""By this file transformers, PEFT and sentence-transformers recognize an adapter."""


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
    """number of logits that the model outputs for a pair"""
    label: Label | None = None
    """the label that means relevant, if one was chosen"""
    prompt: str = ""
    """text before every query"""
    encoder: Any | None = None
    """the same model as a CrossEncoder of sentence-transformers, if that is installed"""
    is_modular: bool = False
    """whether other modules of the encoder contribute to the score"""

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
        """The inputs of its graph (token ids and, if the model was trained with them, segment ids) and its number of labels."""
        return Signature.of(labels=1 if self.label else self.labels, segment_ids=SEGMENTS in self.tokenizer.model_input_names)

    @property
    def relevance(self) -> Relevance:
        """The function of the logits by which pairs are ranked."""
        return RELEVANCE[self.signature.labels]

    @property
    def architecture(self) -> str:
        """The class of its model and the classes of its other modules."""
        steps = list(self.encoder)[1:] if self.is_modular and self.encoder is not None else []
        return " + ".join(type(module).__name__ for module in (self.model, *steps))

    @property
    def reference_name(self) -> str:
        """The library that computes its reference logits, with the version."""
        return f"transformers {transformers.__version__}" if self.encoder is None else encoders.reference_name()

    def network(self) -> Network:
        """The network to trace, without heads and inner units that contribute nothing."""
        model = self.model if self.is_modular else compact_copy(self.model)
        return Network(
            model, tuple(self.signature.inputs), encoder=self.encoder if self.is_modular else None, label=self.label
        ).eval()

    def parameters(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The name and the values of each weight of `network`."""
        source = self.encoder if self.is_modular and self.encoder is not None else compact_copy(self.model)
        return ((name, tensor.detach().numpy()) for name, tensor in source.named_parameters())

    def pair_tokenizer(self) -> PairTokenizer:
        """The engine's tokenizer for this checkpoint."""
        return PairTokenizer(self.tokenizer_json(), self.max_length, prompt=self.prompt)

    def tokenizer_json(self) -> bytes:
        """The content of tokenizer.json, without truncation and padding, which the engine does itself."""
        content: dict[str, Any] = json.loads(self.tokenizer.backend_tokenizer.to_str())
        content["truncation"] = content["padding"] = None
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    def reference(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Relevance logits float32[n] by the library of `reference_name`, with the tokenizer's own pair encoding.

        Parity is measured against them. Raises ExportError for a split checkpoint, and InputError for a query that would leave less
        than a quarter of the room for the document.
        """
        return self.references([(query, documents)])[0]

    def references(self, pools: Sequence[tuple[str, Sequence[str]]], report: Report = no_report) -> list[NDArray[np.float32]]:
        """`reference` of each query and its documents. Pairs of one length share a batch, also across pools: nothing is padded."""
        check_whole(self.model, self.id)
        tokenizer = self.pair_tokenizer()
        lengths: list[int] = []
        for query, documents in pools:
            encodings = tokenizer.encode(query, documents)
            if excess := encodings.query_tokens_cut:
                raise InputError(f"the query {query[:60]!r} is {excess} tokens too long for {self.id}; shorten it")
            lengths += encodings.lengths.tolist()
        pairs = [(query, document) for query, documents in pools for document in documents]
        logits = np.empty(len(pairs), np.float32)
        for batch in track("reference", _batches(lengths), report):
            logits[batch] = self._relevance([pairs[number] for number in batch])
        ends = np.cumsum([len(documents) for _, documents in pools])
        return np.split(logits, ends[:-1])

    def release(self) -> None:
        """Releases the memory of the weights. Afterwards, only what comes from the configuration can be read."""
        networks = [self.model] if self.encoder is None else [self.model, self.encoder]
        # Aliases of the tensors survive tracing and keep their file mapped.
        unload({tensor.data_ptr() for network in networks for tensor in network.parameters()})
        for network in networks:
            network.to("meta")
        trim_heap()

    def _relevance(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """float32[n]: the relevance by which pairs are ranked."""
        if self.encoder is not None:
            logits = encoders.predict(self.encoder, pairs, self.max_length)
        else:
            logits = self._transformers_logits(pairs)
        if self.label is not None:
            logits = self.label.of(torch.from_numpy(logits)).numpy()
        return relevance(logits, self.relevance)

    def _transformers_logits(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Logits float32[n, labels] of the sequence classifier."""
        queries = [f"{self.prompt}{query}" for query, _ in pairs]
        documents = [document for _, document in pairs]
        inputs = self.tokenizer(queries, documents, truncation="only_second", max_length=self.max_length, return_tensors="pt")
        names = (*self.signature.inputs, "attention_mask")
        with torch.inference_mode():
            return self.model(**{name: inputs[name] for name in names}).logits.float().numpy()  # type: ignore[no-any-return]


def load(  # noqa: PLR0913 - the options of the command line, by name
    source: str,
    *,
    revision: str | None = None,
    name: str | None = None,
    allow_pickle: bool = False,
    relevant_label: str | None = None,
    prompt_name: str | None = None,
    activation: str | None = None,
    texts: Sequence[str] = (),
) -> Checkpoint:
    """Loads a folder or a hub id. Weights are read from safetensors only, unless `allow_pickle`; no code of the checkpoint is run.

    `relevant_label`: the name or number of the label that means relevant, for a head with several. `prompt_name`: the checkpoint's
    prompt to put before every query ("": none; None: its default). `activation`: identity, sigmoid or softmax; None: the one that
    the checkpoint declares. `texts`: texts on which its tokenizer.json is compared with the tokenizer that transformers builds; a
    difference is a warning. Raises ExportError, which says what is missing, and ExtraError for a modular checkpoint without
    sentence-transformers.
    """
    local_folder = folder_of(source)
    folder, commit = (
        (local_folder, commit_of(local_folder)) if local_folder else download(source, revision, allow_pickle=allow_pickle)
    )
    if revision is not None and local_folder:
        raise ExportError(f"{source} is a folder and has no revision {revision}; leave --revision out")
    if (folder / ADAPTER_CONFIG).is_file():
        raise adapter_error(folder, ADAPTER_CONFIG)
    check_downloaded([folder], allow_pickle=allow_pickle)
    check_has_config(folder)
    config = read_config(folder)
    check_kind(config, source)
    check_readable(config, source)
    weight_folders = [folder, *(folder / module.path for module in config.modules if module.kind in WEIGHTED_MODULES)]
    check_downloaded(weight_folders[1:], allow_pickle=allow_pickle)
    for weight_folder in weight_folders:
        check_weights(weight_folder, allow_pickle=allow_pickle)
    safetensors = any(folder.glob(SAFETENSORS))
    model, unused = load_model(folder, config, safetensors=safetensors)
    tokenizer = load_tokenizer(folder, config, reads_segments=getattr(model.config, "type_vocab_size", 0) > 1, texts=texts)
    prompt = config.prompt(prompt_name)
    encoder = encoders.load(folder, config, model, unused, safetensors=safetensors)
    if encoder is not None:
        share_tokenizer(tokenizer, encoder.tokenizer)
    if encoder is not None and prompt_name is not None:
        encoder.default_prompt_name = prompt_name or None
    if config.is_modular:
        check_steps(encoder, prompt, source)
    labels = int(encoder.num_labels if config.is_modular and encoder is not None else model.config.num_labels)
    scale = config.scale(labels, activation)
    checkpoint = Checkpoint(
        folder=folder,
        id=path_text(name or (Path(os.path.realpath(folder)).name if local_folder else source)),
        revision=commit,
        model=model,
        tokenizer=tokenizer,
        activation=ACTIVATIONS[scale],
        max_length=_checked_length(min(max_length_of(model, tokenizer), config.max_length or sys.maxsize), source),
        labels=labels,
        label=label_of(model.config, labels, scale, relevant_label, source),
        prompt=prompt,
        encoder=encoder,
        is_modular=config.is_modular,
    )
    _check_vocabulary(checkpoint)
    _check_tokenizer(checkpoint)
    return checkpoint


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Batches of pair numbers, by the pairs' `lengths`: of one length each, within REFERENCE_PAIRS and REFERENCE_TOKENS."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        is_same = bool(batches) and lengths[batches[-1][0]] == lengths[number]
        if not is_same or len(batches[-1]) >= min(REFERENCE_PAIRS, REFERENCE_TOKENS // lengths[number]):
            batches.append([])
        batches[-1].append(number)
    return batches


def _checked_length(max_length: int, source: str) -> int:
    if not 1 <= max_length <= LARGEST["max_length"]:
        raise ExportError(
            f"{source} takes pairs of up to {max_length} tokens; expected 1 to {LARGEST['max_length']}: set model_max_length in "
            "its tokenizer_config.json to the longest pair that it was trained for"
        )
    return max_length


def _check_vocabulary(checkpoint: Checkpoint) -> None:
    """Raises ExportError unless every token id has an embedding."""
    largest = max(checkpoint.tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= checkpoint.vocabulary:
        raise ExportError(
            f"the tokenizer of {checkpoint.folder} has token ids up to {largest}, but the model has "
            f"{checkpoint.vocabulary} embeddings; expected one for every id: save the model's own tokenizer with it"
        )


def _check_tokenizer(checkpoint: Checkpoint) -> None:
    """Raises ExportError unless the engine's encoding of a pair, also of a long one, equals the tokenizer's own."""
    query, document = "where do rivers begin", "Rivers begin at springs, glaciers or lakes, and in bogs."
    texts = [document, f"{document} " * (checkpoint.max_length // len(document.split()) + 1)]  # the second has to be cut
    try:
        encodings = checkpoint.pair_tokenizer().encode(query, texts)
    except InputError as error:
        raise ExportError(
            f"{checkpoint.folder} limits pairs too much: {error}; set model_max_length in its tokenizer_config.json to the longest "
            "pair that the model was trained for"
        ) from error
    names = ("input_ids", SEGMENTS) if checkpoint.signature.segment_ids else ("input_ids",)
    for number, text in enumerate(texts):
        expected = checkpoint.tokenizer(
            f"{checkpoint.prompt}{query}", text, truncation="only_second", max_length=checkpoint.max_length
        )
        for name, ids in zip(names, encodings.row(number), strict=False):
            if expected.get(name) != ids.tolist():
                raise ExportError(
                    f"tokenizer.json encodes a pair as the {name} {ids.tolist()!s:.300}, {type(checkpoint.tokenizer).__name__} as "
                    f"{expected.get(name)!s:.300}; expected the same: save the tokenizer again with its fast version"
                )
