"""Manifest: the fields of manifest.json, formats 3 and 4. Every unknown field is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, get_args

import msgspec

from resift.artifact.fields import Count, FileName, GraphFile, Name, Positive, Strict, Version
from resift.artifact.signature import HALVES_ONLY, MASK, UPDATED, Frozen, Signature, Split
from resift.artifact.variant import Variant
from resift.errors import ArtifactError, InputError
from resift.files.json_decoding import decode_json
from resift.plans import Plan
from resift.settings import LARGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT, EXTENDED_FORMAT = 3, 4
"""The artifact formats that this resift writes; see `format_of`."""
READABLE = (2, 3, 4)
"""The formats that it reads. In format 2, no variant has a graph for short pairs."""
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
CERTIFICATE = "certificate.json"
CARD = "README.md"
WEIGHTS_SUFFIX = ".data"
"""The suffix that a graph's file name gets in the name of the file with its weights, if the graph's file does not hold them."""

Activation = Literal["identity", "sigmoid"]
Relevance = Literal["logit", "log-odds"]
RELEVANCE: dict[int, Relevance] = {1: "logit", 2: "log-odds"}
"""How logits become the relevance that pairs are ranked on, by number of labels."""
Role = Literal["full", "first-look"]
T = TypeVar("T")


class FileEntry(Strict, frozen=True):
    """One file of the folder."""

    size: Count
    """bytes"""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Model(Strict, frozen=True):
    """The checkpoint that the artifact was made from."""

    id: str
    """its hub id, or its folder's name"""
    revision: str | None
    """the hub's commit; None for a folder"""
    architecture: str


class Pair(Strict, frozen=True, omit_defaults=True):
    """How two texts are joined into one row."""

    template: list[str]
    """the special tokens around an empty query and an empty document, token:segment each"""
    vocabulary: Positive
    """number of token ids that the model has embeddings for"""
    max_length: Annotated[int, msgspec.Meta(ge=1, le=LARGEST["max_length"])]
    """tokens, special tokens included"""
    prompt: Annotated[str, msgspec.Meta(max_length=10_000)] = ""
    """text that the checkpoint declares to be put before every query; empty: none"""


class Graph(Strict, frozen=True, omit_defaults=True):
    """One ONNX model of the artifact, in its variants."""

    name: Name
    role: Role
    """full: defines the ranking; first-look: a cheaper model with the same tokenizer that selects documents for the full model"""
    layers: Positive
    operations: Annotated[int, msgspec.Meta(ge=1, le=1 << 50)]
    """per token: multiplications and additions in products with constant weights, whatever their precision"""
    signature: Signature
    relevance: Relevance
    """how logits become the relevance that pairs are ranked on"""
    activation: Activation
    """from relevance to score"""
    variants: Annotated[list[Variant], msgspec.Meta(min_length=1)]
    """best first"""
    frozen: Frozen | None = None
    """None: all layers update all tokens"""
    split: Split | None = None
    """None: query and document are read together; otherwise each variant has two graphs, whose signatures follow from this one"""

    def __post_init__(self) -> None:
        if found := ({MASK, *HALVES_ONLY} & {*self.signature.inputs, *self.signature.outputs}):
            raise ValueError(
                f"the signature of graph {self.name} has {min(found)}; expected it in none: only variants and halves have it"
            )
        if (UPDATED in self.signature.inputs) != (self.frozen is not None):
            raise ValueError(
                f"graph {self.name} has only one of the input {UPDATED} and the field frozen; expected both or neither"
            )
        if self.frozen is not None:
            self._check_frozen(self.frozen)
        self._check_halves()
        if self.split is not None:
            self._check_split(self.split)
        expected = RELEVANCE[self.signature.labels]
        if self.relevance != expected:
            raise ValueError(
                f"graph {self.name} ranks on {self.relevance}; expected {expected}, as its labels number {self.signature.labels}"
            )

    def _check_frozen(self, frozen: Frozen) -> None:
        if frozen.layers >= self.layers:
            raise ValueError(f"graph {self.name} has {frozen.layers} frozen layers of {self.layers}; expected fewer")
        if masked := [variant.file for variant in self.variants if variant.is_masked]:
            raise ValueError(f"graph {self.name} is frozen and its variant {masked[0]} is masked; expected one of them")

    def _check_halves(self) -> None:
        """Raises ValueError unless the variants have document halves exactly if the graph is split."""
        for variant in self.variants:
            if (variant.document is not None) != (self.split is not None):
                has = "no document half" if variant.document is None else "a document half"
                is_split = "is not split" if self.split is None else "is split"
                raise ValueError(f"graph {self.name} {is_split} and its variant {variant.file} has {has}; expected both or neither")

    def _check_split(self, split: Split) -> None:
        if split.layers >= self.layers:
            raise ValueError(f"graph {self.name} is split after {split.layers} layers of {self.layers}; expected fewer")
        if self.role == "full" or self.frozen is not None:
            raise ValueError(f"graph {self.name} is split and {'full' if self.role == 'full' else 'frozen'}; expected one of them")
        for variant in self.variants:
            if variant.is_masked or variant.short is not None:
                what = "is masked" if variant.is_masked else "has a graph for short pairs"
                raise ValueError(f"graph {self.name} is split and its variant {variant.file} {what}; expected one of them")
        halves = {(variant.file, variant.document_half().file) for variant in self.variants}
        if len({file for pair in halves for file in pair}) < 2 * len(halves):
            raise ValueError(f"graph {self.name} is split and halves share a file; expected a file of its own for each")


def format_of(graphs: Sequence[Graph]) -> int:
    """The format of an artifact of those graphs: the second where one is frozen, split or has a masked variant, new in it.

    A resift that reads 3 refuses 4 and asks for a newer resift; the rest it could run.
    """
    is_extended = any(
        graph.frozen is not None or graph.split is not None or any(variant.is_masked for variant in graph.variants)
        for graph in graphs
    )
    return EXTENDED_FORMAT if is_extended else FORMAT


class StablePair(Strict, frozen=True):
    """A pair whose logit noise hardly moves, with the relevance logit of a graph's file on the machine of the export."""

    query: str
    document: str
    logit: Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]


class SelfTest(Strict, frozen=True):
    """What a graph's file has to compute when it is first loaded on a machine or by a version of onnxruntime."""

    bound: Annotated[float, msgspec.Meta(gt=0)]
    """the largest difference of a logit that is accepted"""
    pairs: Annotated[list[StablePair], msgspec.Meta(min_length=1, max_length=100)]


class Manifest(Strict, frozen=True, omit_defaults=True):
    """manifest.json."""

    format: int
    model: Model
    pair: Pair
    graphs: Annotated[list[Graph], msgspec.Meta(min_length=1)]
    files: dict[FileName, FileEntry]
    recipe: dict[str, str | int | float | bool | list[str] | None]
    """the choices of the export, for information"""
    forced: bool
    """whether the artifact was written although it failed the gate"""
    versions: dict[str, str]
    """versions of the libraries at export"""
    onnxruntime: Annotated[list[Version], msgspec.Meta(min_length=2, max_length=2)]
    """the oldest and the newest version that the artifact was tested with; the oldest is required"""
    plan: str | None = None
    """the plan, as text, of calls with a top_k and no plan of their own; None: full"""
    self_tests: dict[GraphFile, SelfTest] = msgspec.field(default_factory=dict)
    """the self-test of the file of each variant; a file without one is not tested"""

    def __post_init__(self) -> None:
        names = [graph.name for graph in self.graphs]
        if len(set(names)) < len(names):
            raise ValueError(f"graphs are named {', '.join(names)}; expected distinct names")
        first_names: dict[str, str] = {}
        for graph in self.graphs:
            first = first_names.setdefault(graph.role, graph.name)
            if graph.name in get_args(Role) and (graph.name != graph.role or graph.name != first):
                raise ValueError(
                    f"a graph of the role {graph.role} is named {graph.name}; expected that of the first {graph.name} graph"
                )
        full = [graph.name for graph in self.graphs if graph.role == "full"]
        if len(full) != 1:
            raise ValueError(f"{len(full)} graphs have the role full; expected one")
        self._check_files()
        if self.plan is not None:
            try:
                Plan.parse(self.plan)
            except InputError as error:
                raise ValueError(str(error)) from error

    def _check_files(self) -> None:
        variants = [(graph.name, each) for graph in self.graphs for variant in graph.variants for each in variant.graphs()]
        missing = {TOKENIZER, CERTIFICATE, *(variant.file for _, variant in variants)} - self.files.keys()
        if missing:
            raise ValueError(f"its files lack {', '.join(sorted(missing))}")
        weight_files = {name for _, variant in variants for name in variant.weight_files()}
        if unknown := weight_files - self.files.keys():
            raise ValueError(f"graphs read weights from {', '.join(sorted(unknown))}, which its files lack")
        uses = {(variant.file, name, variant.precision) for name, variant in variants}
        if len(uses) > len({file for file, _, _ in uses}):
            raise ValueError("two graphs or two precisions share a file; expected separate files")
        if unknown_graphs := self.self_tests.keys() - self.files.keys():
            raise ValueError(f"it has self-tests of {', '.join(sorted(unknown_graphs))}, which its files lack")

    @property
    def full(self) -> Graph:
        """The graph of the role full, which defines the artifact's ranking."""
        return next(graph for graph in self.graphs if graph.role == "full")

    def row_of(self, file: str) -> Pair:
        """What the graph in `file` reads of a pair, with its most tokens as the max_length: of a split graph, a half does."""
        tokens = self.pair.max_length
        for graph in self.graphs:
            for variant in graph.variants if graph.split is not None else ():
                assert graph.split is not None
                if file == variant.file:
                    tokens = graph.split.query_tokens
                elif file == variant.document_half().file:
                    tokens = graph.split.document_tokens
        return msgspec.structs.replace(self.pair, max_length=tokens)


class _Format(msgspec.Struct):
    format: int


def decode_manifest(content: bytes) -> Manifest:
    """A manifest from its JSON. Raises ArtifactError for another format, an unknown field or a value out of range."""
    version = decode(content, _Format, MANIFEST).format
    if version not in READABLE:
        raise ArtifactError(
            f"{MANIFEST} has format {version}; this resift reads formats {READABLE[0]} to {READABLE[-1]}: "
            f"{'install a newer resift' if version > READABLE[-1] else 'export the artifact again'}"
        )
    return decode(content, Manifest, MANIFEST)


def decode(content: bytes, kind: type[T], name: str) -> T:
    """An object of type `kind` from the JSON content of the artifact's file `name`.

    Raises ArtifactError that says what is wrong with it.
    """
    try:
        return decode_json(content, kind)
    except ValueError as error:
        raise ArtifactError(f"{name} is not what `resift export` writes: {error}") from error
