"""Recipe: the options of an export, recorded in the manifest."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from resift.artifact.agreement import LEAST_GATE_POOLS, Bounds, Pool
from resift.artifact.fields import FILE_NAME_PATTERN
from resift.artifact.manifest import CARD, CERTIFICATE, MANIFEST, TOKENIZER
from resift.artifact.variant import Variant
from resift.errors import InputError
from resift.files.names import path_text
from resift.files.whole import read_whole
from resift.pools.reading import CandidatePool, decode_object, read_lines
from resift.pools.source import read_pools
from resift.pools.trec import checked_label
from resift.settings import PRECISIONS, Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORT_CALIBRATION, SHORT_GATE = "short_calibration.jsonl", "short_gate.jsonl"
MIN_CALIBRATION_PAIRS = 32
MIN_GATE_DOCUMENTS = 10
MIN_EVALUATIONS = 3
"""Evaluations of a search: the float32 graph, the int8 graph, and one in between."""
FEWEST_FROZEN = 2
"""Frozen layers: in the last one alone, no graph updates more than the first token."""
ACTIVATIONS = ("identity", "sigmoid", "softmax")
RESERVED_NAMES = frozenset({MANIFEST, TOKENIZER, CERTIFICATE})
FILE_NAME = re.compile(FILE_NAME_PATTERN)
ATTACHED_LIMIT = 1 << 26
"""Maximum size of an attached file in bytes."""
VNNI = ("avx512_vnni", "avx_vnni", "asimd")
"""Linux names of the instruction sets with which onnxruntime sums int8 products in 32 bits; a processor needs one of them. All of
ARM's kernels do, those without dot products, too."""
VNNI_FILE = "model.int8-vnni.onnx"
NEEDED: dict[str, Precision] = {"vnni": "int8", "search": "int8", "packed": "float16"}
"""The precision that an option changes."""


class CalibrationPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pair of the calibration set, whose activations set the scales."""

    query: str
    document: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The choices of an export. Raises InputError for an unknown value."""

    precisions: Sequence[Precision] = ("int8",)
    vnni: bool = False
    """add an int8 variant with 8-bit weights for processors with VNNI to the 7-bit one, which is safe everywhere"""
    tracer: Literal["torch", "optimum"] = "torch"
    calibration: Path | None = None
    """JSON Lines of CalibrationPair; None: the built-in set"""
    gate: Path | None = None
    """JSON Lines of candidate pools; None: the built-in set"""
    attached: Sequence[Path] = ()
    """files to include in the artifact; a README.md becomes the beginning of its card"""
    bounds: Bounds = field(default_factory=Bounds)
    relevant_label: str | None = None
    """the name or number of the label that means relevant, for a head with several; None: the head has one label, or (no, yes)"""
    prompt_name: str | None = None
    """the checkpoint's prompt to put before every query; empty: none; None: its default"""
    activation: Literal["identity", "sigmoid", "softmax"] | None = None
    """the function that turns logits into scores; None: the one that the checkpoint declares"""
    origin: str | None = None
    """where the weights come from, in a sentence that `resift info` shows"""
    no_texts: bool = False
    """leave the texts of your gate out of the certificate; `resift verify` then needs the gate's file"""
    search: int | None = None
    """evaluations allowed for each int8 file that the gate refuses, to find products to leave in float32; None: no search"""
    freeze: int | Literal["auto"] | None = None
    """the last layers, 2 or more, in which the document's tokens are frozen; auto: as many as the ranking allows; None: none"""
    packed: bool = False
    """add to the float16 variant a graph that computes no padding, which only CUDA runs"""

    def __post_init__(self) -> None:
        if self.tracer not in ("torch", "optimum"):
            raise InputError(f"tracer is {self.tracer!r}; expected 'torch' or 'optimum'")
        if self.activation not in (None, *ACTIVATIONS):
            raise InputError(f"activation is {self.activation!r:.80}; expected one of {', '.join(ACTIVATIONS)}, or None")
        if not self.precisions:
            raise InputError(f"no precision given; expected one or more of {', '.join(PRECISIONS)}")
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise InputError(f"--precision is {precision!r:.80}; expected one or more of {', '.join(PRECISIONS)}")
        for option, precision in NEEDED.items():
            if getattr(self, option) not in (False, None) and precision not in self.precisions:
                raise InputError(
                    f"--{option} needs the {precision} precision; add {precision} to --precision, or leave out --{option}"
                )
        if self.no_texts and self.gate is None:
            raise InputError("--no-texts leaves out the texts of your own gate; expected --gate FILE with it")
        if self.search is not None and self.search < MIN_EVALUATIONS:
            raise InputError(f"--search allows {self.search} evaluations; expected {MIN_EVALUATIONS} or more")
        _check_freeze(self.freeze, self.precisions)

    def variants(self) -> list[Variant]:
        """The variants the artifact will hold, best first."""
        vnni_variants = [Variant(file=VNNI_FILE, precision="int8", instruction_sets=[name]) for name in VNNI if self.vnni]
        precisions = [precision for precision in PRECISIONS if precision in self.precisions]
        plain_variants = [
            Variant(file=file_of(name), precision=name, instruction_sets=[], is_masked=name == "float16") for name in precisions
        ]
        return vnni_variants + plain_variants

    def calibration_pairs(self) -> list[CalibrationPair]:
        """The calibration set. Raises InputError, which names the line, for a bad line."""
        path = self.calibration or built_in("calibration.jsonl")
        pairs = _pairs_of(path)
        if len(pairs) < MIN_CALIBRATION_PAIRS:
            raise InputError(f"{path} has {len(pairs)} pairs; expected {MIN_CALIBRATION_PAIRS} or more, preferably a hundred")
        return pairs

    def gate_pools(self) -> list[Pool]:
        """The gate's pools.

        Raises InputError for a label beyond any grade, and if they are too few, or too small, for a meaningful comparison.
        """
        path = self.gate or built_in("gate.jsonl")
        pools = [_gate_pool(pool, number, f"{path}, pool {number}") for number, pool in enumerate(read_pools(path), 1)]
        if empty := [pool.qid for pool in pools if not pool.documents]:
            raise InputError(f"{path} has pools without documents, the first with qid {empty[0]}; remove them")
        large = [pool for pool in pools if len(pool.documents) >= MIN_GATE_DOCUMENTS]
        if len(large) < LEAST_GATE_POOLS:
            raise InputError(
                f"{path} has {len(large)} pools of {MIN_GATE_DOCUMENTS} documents or more (of {len(pools)} in all); "
                f"expected at least {LEAST_GATE_POOLS}"
            )
        return pools

    def short_calibration_pairs(self) -> list[CalibrationPair]:
        """Short pairs, by which the products of a graph for short pairs are chosen; always the built-in ones."""
        return _pairs_of(built_in(SHORT_CALIBRATION))

    def short_gate_pools(self) -> list[Pool]:
        """Pools of short queries and documents, on which the agreement by length is measured; always the built-in ones."""
        return [_gate_pool(pool, number, SHORT_GATE) for number, pool in enumerate(read_pools(built_in(SHORT_GATE)), 1)]

    def check_files(self) -> None:
        """Raises InputError for a file that cannot be attached, and for texts of which a second reading would find others.

        They are read to be scored, and again for the hashes in the manifest.
        """
        self.attached_files()
        for path in (self.calibration, self.gate):
            # os.path's functions do not raise for a name that is too long
            if path is not None and (str(path) == "-" or (os.path.exists(path) and not os.path.isfile(path))):  # noqa: PTH110, PTH113
                raise InputError(f"{path} is not a regular file, but its texts are read twice; save them in one, and name that")

    def attached_files(self) -> dict[str, bytes]:
        """Contents of the attached files by name. Raises InputError if one cannot be read or its name cannot be used."""
        contents: dict[str, bytes] = {}
        for path in self.attached:
            if not FILE_NAME.match(path.name) or path.name in RESERVED_NAMES or ".onnx" in path.suffixes or path.name in contents:
                raise InputError(
                    f"cannot attach {path}: its name is taken or has characters other than A-Z a-z 0-9 _ . -; rename the file"
                )
            try:
                contents[path.name] = read_whole(path, ATTACHED_LIMIT)
                if path.name == CARD:
                    contents[path.name].decode()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or error
                raise InputError(f"cannot attach {path}: {reason}") from error
        return contents

    def record(self) -> dict[str, str | int | float | bool | list[str] | None]:
        """The options as the manifest records them; calibration set and gate by name and SHA-256."""
        record: dict[str, str | int | float | bool | list[str] | None] = {
            "precisions": [str(precision) for precision in self.precisions],
            "vnni": self.vnni,
            "tracer": self.tracer,
        }
        if self.search is not None:
            record["search"] = self.search
        if self.freeze is not None:
            record["freeze"] = self.freeze
        record.update({name: True for name in ("no_texts", "packed") if getattr(self, name)})
        texts = {name: getattr(self, name) for name in ("relevant_label", "prompt_name", "activation", "origin")}
        record.update({key: path_text(value) for key, value in texts.items() if value is not None})
        for name, own_path, file in (
            ("calibration", self.calibration, "calibration.jsonl"),
            ("gate", self.gate, "gate.jsonl"),
        ):
            path = own_path or built_in(file)
            record[name] = path_text(path.name) if own_path else f"built-in {file}"
            record[f"{name}_sha256"] = _sha256(path)
        for name in (SHORT_CALIBRATION, SHORT_GATE):
            record[f"{name.partition('.')[0]}_sha256"] = _sha256(built_in(name))
        return record


def _check_freeze(freeze: object, precisions: Sequence[Precision]) -> None:
    """Raises InputError unless `freeze` can be a recipe's that has those precisions."""
    if freeze not in (None, "auto") and not (type(freeze) is int and freeze >= FEWEST_FROZEN):
        raise InputError(f"--freeze is {freeze!r:.80}; expected auto, or a number of layers, {FEWEST_FROZEN} or more")
    if freeze is not None and "float16" in precisions:
        raise InputError("--freeze makes no float16 graphs, and --precision has float16; leave one of them out")


def file_of(precision: Precision) -> str:
    """The file of the precision's variant that runs on any processor."""
    return f"model.{precision}.onnx"


def built_in(name: str) -> Path:
    """A file of texts that comes with the package."""
    return Path(str(files("resift_export"))) / "data" / name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pairs_of(path: Path) -> list[CalibrationPair]:
    """The pairs of a file. Raises InputError, which names the line, for a bad one."""
    pairs = []
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        try:
            pairs.append(msgspec.convert(decode_object(line, where), CalibrationPair))
        except msgspec.ValidationError as error:
            raise InputError(f'{where}: {error}; expected {{"query": "...", "document": "..."}}') from error
    return pairs


def _gate_pool(pool: CandidatePool, number: int, where: str) -> Pool:
    labels = [fields.get("label") for fields in pool.fields]
    grades = [checked_label(label, where) for label in labels if isinstance(label, int) and label >= 0]
    return Pool(
        qid=str(pool.qid if pool.qid is not None else number),
        query=pool.query,
        documents=pool.documents,
        labels=grades if grades and len(grades) == len(pool.documents) else None,
    )
