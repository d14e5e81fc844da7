"""Calibration: a monotone map from the logits of one artifact to the probability that a document is relevant.

`resift calibrate` fits one to labelled pools; here it is read, checked and applied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Self

from resift.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Method = Literal["platt", "isotonic"]
METHODS: tuple[Method, ...] = ("platt", "isotonic")
READING = ("max_length", "truncation", "windows")
"""The fields that say how pairs were read; with other values of them, logits are others."""
MEASURED = "measured"
"""The table within [calibration] that holds figures for the reader."""
HOW = (
    "write one with `resift calibrate MODEL POOLS -o settings.toml`, and use it: --settings settings.toml, or in Python "
    "Settings.read('settings.toml')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCalibration:
    """The table [calibration] of a settings file. Raises InputError for values that are no such map, and TypeError for types."""

    method: Method
    """platt: the sigmoid of a line over the logit; isotonic: a line through points, level beyond the first and the last"""
    slope: float | None = None
    """of platt: above 0"""
    intercept: float | None = None
    """of platt"""
    logits: tuple[float, ...] = ()
    """of isotonic: one or more logits, increasing"""
    probabilities: tuple[float, ...] = ()
    """of isotonic: the probability at each of `logits`, never decreasing"""
    model: str
    """id of the model, for messages"""
    artifact: str
    """`Artifact.fingerprint` of the artifact whose full graph computed the logits"""
    max_length: int
    """`Settings.max_length`, `truncation` and `windows` with which pairs were read, without "auto" """
    truncation: str
    windows: int

    def __post_init__(self) -> None:
        for name in ("model", "artifact", "truncation"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"calibration.{name} is {type(getattr(self, name)).__name__}; expected a str")
        for name in ("max_length", "windows"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"calibration.{name} is {type(value).__name__}; expected an int")
        for name in ("logits", "probabilities"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise TypeError(f"calibration.{name} is {type(value).__name__}; expected a list of numbers")
            object.__setattr__(self, name, tuple(_finite(name, number) for number in value))
        if self.method == "platt":
            self._check_platt()
        elif self.method == "isotonic":
            self._check_isotonic()
        else:
            raise InputError(f"calibration.method is {self.method!r:.80}; expected platt or isotonic")

    @classmethod
    def of(cls, table: object) -> Self:
        """The calibration of a table; the figures in it, for the reader, are not read. Raises InputError and TypeError."""
        if not isinstance(table, Mapping):
            raise TypeError(f"calibration is {type(table).__name__}; expected a table as `resift calibrate` writes it")
        values = {str(name): value for name, value in table.items() if name != MEASURED}
        names = [field.name for field in fields(cls)]
        required = ("method", "model", "artifact", *READING)
        if wrong := [*(values.keys() - names), *(name for name in required if name not in values)]:
            known = "is not known" if wrong[0] in values else "is missing"
            raise InputError(f"calibration.{wrong[0]!s:.80} {known}; expected a table as `resift calibrate` writes it")
        return cls(**values)

    def table(self) -> dict[str, Any]:
        """The table from which `of` makes it again, without what its method does not use."""
        values = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def check(self, *, artifact: str, model: str, **reading: object) -> None:
        """Raises InputError unless it was fitted for the artifact of that fingerprint, with pairs read in the same way.

        `model`: the artifact's model, for the message. `reading`: the values of READING that this process runs with.
        """
        if artifact != self.artifact:
            raise InputError(
                f"the settings' calibration is for the artifact {self.artifact[:12]}… of {self.model!s:.200}, but this is "
                f"{artifact[:12]}… of {model!s:.200}, whose logits mean something else; run `resift calibrate` for this artifact"
            )
        for name, value in reading.items():
            fitted = getattr(self, name)
            if fitted != value:
                raise InputError(
                    f"the settings' calibration is for {name} {fitted!s:.80}, but this runs with {value}, which gives other "
                    f"logits; use the same {name}, or run `resift calibrate` with this one"
                )

    def apply(self, logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Probabilities, float64[n] in [0, 1], of logits of the full graph; NaN for NaN."""
        import numpy as np

        values = logits.astype(np.float64)
        if self.method == "platt":
            with np.errstate(over="ignore"):
                return sigmoid(values * self.slope + self.intercept)  # type: ignore[operator] # both are numbers, once checked
        return np.where(np.isnan(values), np.nan, np.interp(values, self.logits, self.probabilities))

    def _check_platt(self) -> None:
        slope, intercept = (_finite(name, getattr(self, name)) for name in ("slope", "intercept"))
        if slope <= 0:
            raise InputError(f"calibration.slope is {slope}; expected a number above 0, as a higher logit is more relevant")
        if self.logits or self.probabilities:
            raise InputError("calibration has logits or probabilities, but its method is platt; expected only a line")
        object.__setattr__(self, "slope", slope)
        object.__setattr__(self, "intercept", intercept)

    def _check_isotonic(self) -> None:
        x, p = self.logits, self.probabilities
        if self.slope is not None or self.intercept is not None:
            raise InputError("calibration has a slope or an intercept, but its method is isotonic; expected only points")
        if len(x) != len(p) or not x:
            raise InputError(f"calibration has {len(x)} logits and {len(p)} probabilities; expected as many, and one or more")
        if any(after <= before for before, after in pairwise(x)):
            raise InputError("calibration.logits do not increase; expected each above the one before")
        if any(after < before for before, after in pairwise(p)) or not 0 <= p[0] <= p[-1] <= 1:
            raise InputError("calibration.probabilities decrease or leave 0 to 1; expected each as high as the one before")


def sigmoid(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), float64 of the same shape, for numbers of any size; NaN for NaN."""
    import numpy as np

    with np.errstate(under="ignore"):
        decay = np.exp(-np.abs(values.astype(np.float64)))
    return np.where(values < 0, decay, 1.0) / (1.0 + decay)


def check_threshold(threshold: object, *, is_calibrated: bool) -> None:
    """Raises TypeError for anything but a number or None, and InputError if it is not from 0 to 1 or there is no calibration."""
    if threshold is None:
        return
    if not isinstance(threshold, Real) or isinstance(threshold, bool):
        raise TypeError(f"threshold is {type(threshold).__name__}; expected a number from 0 to 1, or None")
    if not 0 <= threshold <= 1:  # type: ignore[operator] # a Real
        raise InputError(f"threshold is {threshold!s:.80}; expected a probability, from 0 to 1")
    if not is_calibrated:
        raise InputError(f"threshold is {threshold!s:.80}, a probability, but the settings have no calibration: {HOW}")


def _finite(name: str, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"calibration.{name} is or has {type(value).__name__}; expected a number")
    try:
        number = float(value)
    except OverflowError:  # an int beyond floating point
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"calibration.{name} is or has {number}; expected a finite number")
    return number
