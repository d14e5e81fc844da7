"""Settings: the choices of the caller. "auto" is resolved into a second object once an artifact is open."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Self, get_args

from resift.calibration import ScoreCalibration
from resift.counts import as_int
from resift.documents import DEFAULT, DocumentTemplate
from resift.errors import InputError
from resift.files.names import is_file_name
from resift.files.whole import read_toml
from resift.plans import Plan, as_plan

Auto = Literal["auto"]
Precision = Literal["int8", "float16", "float32"]
PRECISIONS: tuple[Precision, ...] = ("int8", "float16", "float32")
"""The most exact last."""
Provider = Literal["cpu", "cuda", "openvino", "dml", "coreml", "tensorrt", "qnn"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
Truncation = Literal["only_second", "longest_first"]
TRUNCATIONS: tuple[Truncation, ...] = ("only_second", "longest_first")
Scale = Literal["logit", "sigmoid"]
SCALES: tuple[Scale, ...] = ("logit", "sigmoid")
CHOICES: dict[str, tuple[str, ...]] = {"provider": PROVIDERS, "precision": PRECISIONS, "truncation": TRUNCATIONS, "scores": SCALES}
LARGEST = {
    "threads": 1024,
    "token_budget": 1 << 30,
    "max_length": 1 << 20,
    "waiting_tokens": 1 << 40,
    "windows": 64,
    "document_cache": 1 << 50,
}
SMALLEST = {"document_cache": 0}
"""Of those whose smallest value is not 1."""
DOCUMENT_CACHE = 64 << 20
"""Bytes that states of documents take in memory if nobody says how many: 1,800 documents of 95 tokens with 384 bytes each."""
TABLE, CALIBRATION = "settings", "calibration"
GPU = re.compile("cuda:([0-9]{1,4})")
"""The provider cuda with the number of a GPU, from 0."""
OTHER_TABLES = ("retrieval", "measured")
"""Further tables of a settings file, which `Settings.read` does not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run an artifact. All fields may stay "auto".

    Raises InputError for a value out of range and TypeError for one of the wrong type.
    """

    provider: Provider | Auto = "auto"
    """Where to run; auto: CUDA if it starts here and the artifact has a variant for it, otherwise the CPU. cuda:1 is CUDA on the
    second GPU, short for the option device_id. Other providers than these two are tried, not promised: loading raises ProviderError
    unless they reproduce logits of the certificate."""
    threads: int | Auto = "auto"
    """Batches that run at once, one thread each; auto: the physical cores this process may use."""
    token_budget: int | Auto = "auto"
    """Largest rows x width of one batch, in tokens; auto: what the execution provider runs fastest."""
    max_length: int | Auto = "auto"
    """Tokens of a pair, special tokens included; auto: the model's own limit, which is also the largest value."""
    waiting_tokens: int | Auto = "auto"
    """Maximum number of tokens that wait to run; a call that would exceed it raises OverloadedError, unless no tokens wait;
    auto: no limit."""
    waiting_seconds: float | Auto = "auto"
    """Maximum predicted wait of a call, or the predicted time that the call itself runs if that is more; a call that would wait
    longer raises OverloadedError; auto: no limit."""
    precision: Precision | Auto = "auto"
    """Precision of the graphs to run; auto: the fastest one the artifact has for this machine."""
    provider_options: Mapping[str, str] | Auto = field(default="auto", hash=False)
    """onnxruntime's options of the provider, by name; numbers and booleans become text. auto: onnxruntime's own defaults."""
    plan: Plan | str = "auto"
    """The cascade that scores a pool: a Plan, which becomes text, a built-in name (full, fast, balanced) or stages such as
    "first-look:15,full"; auto: the artifact's own plan for calls with a top_k, if it has one, and otherwise full."""
    truncation: Truncation | Auto = "auto"
    """Which text of a pair that is too long is cut. auto: only_second, the document, so that all documents of a query are scored
    with the same query. longest_first: the longer of the two texts, as sentence-transformers does."""
    windows: int | Auto = "auto"
    """Maximum number of windows in which a document too long for its pair is read; the best window's logit counts. auto: 1, and
    the end of the document is cut. Each window makes a pair with the whole query and takes as long as any other pair."""
    scores: Scale | Auto = "auto"
    """The scale of scores: logit, or its sigmoid, in [0, 1]. auto: the scale that the model declares."""
    document_template: str | Auto = "auto"
    """What the model reads of a document that is a mapping, such as "{title}\\n{text}"; auto: "{text}". See `DocumentTemplate`."""
    document_cache: int | Auto = "auto"
    """Bytes of memory for the states of documents that a split graph has read, the least recently used making room for new ones; 0
    for none; auto: 64 MiB. Nothing is kept for a plan without a split graph."""
    store: str | os.PathLike[str] | Auto = "auto"
    """A folder that `resift prepare` fills with the states of documents, which a split graph then does not compute; auto: none."""
    calibration: ScoreCalibration | None = None
    """The map from logits to probabilities that `resift calibrate` fitted for the artifact, or its table; None: results have no
    probability, and calls take no threshold."""

    def __post_init__(self) -> None:
        for name in LARGEST:
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        self._name_gpu()
        object.__setattr__(self, "waiting_seconds", _seconds("waiting_seconds", self.waiting_seconds))
        for name, choices in CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        if not isinstance(self.document_template, str):
            raise TypeError(f"Settings.document_template is {type(self.document_template).__name__}; expected a str")
        if self.document_template != "auto":
            DocumentTemplate.parse(self.document_template)
        object.__setattr__(self, "provider_options", _read_options(self.provider_options, self.provider))
        if self.truncation == "longest_first" and self.windows not in ("auto", 1):
            raise InputError(
                f"Settings.windows is {self.windows} but Settings.truncation is 'longest_first', which may cut the query of a long "
                "document: its windows would be read with another query than other documents; leave truncation on 'auto'"
            )
        if self.plan != "auto":
            plan = as_plan(self.plan, "Settings.plan")
            object.__setattr__(self, "plan", self.plan if isinstance(self.plan, str) else str(plan))
        object.__setattr__(self, "store", _folder("store", self.store))
        object.__setattr__(self, "calibration", _calibration(self.calibration))

    def _name_gpu(self) -> None:
        """Takes the number of a GPU out of the provider, and puts it into the provider's options."""
        found = GPU.fullmatch(self.provider) if isinstance(self.provider, str) else None
        if found is None:
            return
        number = str(int(found[1]))
        options = {} if self.provider_options == "auto" else self.provider_options
        if isinstance(options, Mapping):
            before = options.get("device_id", number)
            if str(before) != number:
                raise InputError(
                    f"Settings.provider is {self.provider!r} but the option device_id is {before!r:.80}; give only one"
                )
            object.__setattr__(self, "provider_options", {**options, "device_id": number})
        object.__setattr__(self, "provider", "cuda")

    def with_arguments(self, **arguments: Any) -> Self:
        """With those arguments that are not None. Raises InputError if one contradicts a field that is set already."""
        merged = replace(self, **{name: value for name, value in arguments.items() if value is not None})
        for name in arguments:
            before, after = getattr(self, name), getattr(merged, name)
            if before not in ("auto", after):
                raise InputError(f"{name} is {after!r} but Settings.{name} is {before!r}; give only one of them")
        return merged

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Settings from a TOML file (https://toml.io/en/v1.0.0), such as `resift tune` writes.

        Its table [settings] holds fields of this class; a missing field stays "auto". Its table [calibration], if there is one, is
        what `resift calibrate` writes. The file may also have the tables [retrieval] and [measured]: how many candidates to request
        from the retriever, and the measurements. They are for the reader and are not applied. Raises InputError that names the file
        for anything else.
        """
        tables = read_tables(path)
        values = tables.get(TABLE)
        if not isinstance(values, dict):
            raise InputError(f"{path} has no table [{TABLE}]; expected one with any of {', '.join(_names())}")
        unknown = values.keys() - set(_names())
        if unknown:
            raise InputError(f"{path}: [{TABLE}] has {', '.join(map(repr, sorted(unknown)))}; expected only {', '.join(_names())}")
        try:
            return cls(**values, calibration=tables.get(CALIBRATION))  # type: ignore[arg-type]
        except (InputError, TypeError) as error:
            raise InputError(f"{path}: {error}") from error

    def table(self) -> dict[str, Any]:
        """The table [settings] of a file: the fields that are not "auto", without the calibration, which has its own table."""
        return {name: value for name in _names() if (value := getattr(self, name)) != "auto"}


def read_tables(path: str | os.PathLike[str]) -> dict[str, object]:
    """The tables of a settings file. Raises InputError like `read_toml`, and for other tables than `Settings.read` names."""
    tables = read_toml(path)
    allowed = (TABLE, CALIBRATION, *OTHER_TABLES)
    unknown = [name for name in tables if name not in allowed]
    if unknown:
        raise InputError(
            f"{path} has {', '.join(map(repr, unknown))}; expected only the tables {', '.join(f'[{name}]' for name in allowed)}"
        )
    return tables


def _names() -> list[str]:
    """The fields that the table [settings] holds."""
    return [each.name for each in fields(Settings) if each.name != CALIBRATION]


def _read_options(options: object, provider: str) -> dict[str, str] | Auto:
    """A copy of the options of an execution provider, or "auto". Raises like Settings."""
    if options == "auto":
        return "auto"
    name = "Settings.provider_options"
    if not isinstance(options, Mapping):
        raise TypeError(f"{name} is {type(options).__name__}; expected a mapping of options by name, or 'auto'")
    if provider in ("auto", "cpu"):
        others = ", ".join(PROVIDERS[1:])
        raise InputError(f"{name} is set but Settings.provider is {provider!r}; expected one that has options: {others}")
    for key, value in options.items():
        if not isinstance(key, str) or not isinstance(value, str | int | float):
            raise TypeError(f"{name} has {key!r:.100} of type {type(value).__name__}; expected a str, number or bool by name")
    return {key: str(value) for key, value in options.items()}


def _calibration(value: object) -> ScoreCalibration | None:
    return value if value is None or isinstance(value, ScoreCalibration) else ScoreCalibration.of(value)


def _number(name: str, value: object) -> int | Auto:
    if isinstance(value, str) and value == "auto":
        return "auto"
    number, smallest, largest = as_int(value), SMALLEST.get(name, 1), LARGEST[name]
    if number is None:
        raise TypeError(f"Settings.{name} is {type(value).__name__}; expected an int or 'auto'")
    if not smallest <= number <= largest:
        raise InputError(f"Settings.{name} is {number}; expected {smallest} to {largest}, or 'auto'")
    return number


def _folder(name: str, value: object) -> str:
    """The name of a folder as text, which a settings file can hold."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"Settings.{name} is {type(value).__name__}; expected the path of a folder, or 'auto'")
    folder = os.fsdecode(value)
    if not is_file_name(folder):
        raise InputError(f"Settings.{name} is {folder!r:.200}; expected the path of a folder, or 'auto'")
    return folder


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"Settings.{name} is {type(value).__name__}; expected a str")
    if value not in ("auto", *choices):
        raise InputError(f"Settings.{name} is {value!r}; expected 'auto' or one of {', '.join(choices)}")


def _seconds(name: str, value: object) -> float | Auto:
    if isinstance(value, str) and value == "auto":
        return "auto"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"Settings.{name} is {type(value).__name__}; expected a number or 'auto'")
    seconds = value if isinstance(value, int) else float(value)
    if not 0 < seconds < math.inf:
        raise InputError(f"Settings.{name} is {value}; expected a number above 0, or 'auto'")
    return seconds


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """Settings without "auto": the values that this process runs with."""

    threads: int
    token_budget: int
    max_length: int
    truncation: Truncation
    windows: int
    waiting_tokens: int | None = None
    """None: any number"""
    waiting_seconds: float | None = None
    """None: any time"""
    scores: Scale = "logit"
    document_template: DocumentTemplate = DEFAULT
    document_cache: int = DOCUMENT_CACHE
    """bytes"""
    store: Path | None = None
    calibration: ScoreCalibration | None = None


def resolve(settings: Settings, *, cores: int, token_budget: int, max_length: int, scores: Scale = "logit") -> ResolvedSettings:
    """Fills in "auto" from the machine's `cores`, the provider's `token_budget` and the model's own `max_length` (both in tokens).

    `scores`: the scale that the model declares.

    Raises InputError if `settings.max_length` is more than the model takes.
    """
    if settings.max_length != "auto" and settings.max_length > max_length:
        raise InputError(
            f"max_length is {settings.max_length} tokens, but this model takes at most {max_length}; lower it, or leave it out"
        )
    return ResolvedSettings(
        threads=cores if settings.threads == "auto" else settings.threads,
        token_budget=token_budget if settings.token_budget == "auto" else settings.token_budget,
        max_length=max_length if settings.max_length == "auto" else settings.max_length,
        truncation="only_second" if settings.truncation == "auto" else settings.truncation,
        windows=1 if settings.windows == "auto" else settings.windows,
        waiting_tokens=None if settings.waiting_tokens == "auto" else settings.waiting_tokens,
        waiting_seconds=None if settings.waiting_seconds == "auto" else settings.waiting_seconds,
        scores=scores if settings.scores == "auto" else settings.scores,
        document_template=DEFAULT if settings.document_template == "auto" else DocumentTemplate.parse(settings.document_template),
        document_cache=DOCUMENT_CACHE if settings.document_cache == "auto" else settings.document_cache,
        store=None if settings.store == "auto" else Path(settings.store),
        calibration=settings.calibration,
    )
