"""The settings file that `resift calibrate` writes: TOML for `Settings.read`, with the figures of the calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from resift.calibration import MEASURED
from resift.evaluate.results import Share
from resift.evaluate.tuning.tunedfile import check_writer
from resift.settings import CALIBRATION, TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.evaluate.calibration.records import CalibrationResult
    from resift.evaluate.results import Reliability
    from resift.settings import Settings

HEAD = """# Written by `resift calibrate`. The probabilities are for pools like those of the data: from the same retriever, with as
# many candidates, and judged alike. [calibration.measured] is for the reader.

"""


def encode_calibrated(result: CalibrationResult, settings: Settings, tables: Mapping[str, object]) -> bytes:
    """The file with the calibration of `result`, the `settings` that it was fitted with, and further `tables`.

    Raises like `check_writer`.
    """
    check_writer()
    import tomli_w

    figures = {
        "data": result.data,
        "queries": result.queries,
        "pairs": result.pairs,
        "relevant": result.relevant,
        "relevant_from": result.relevant_from,
        "unjudged": result.unjudged,
        "candidates": result.pool_size,
        "sigmoid": _errors(result.before),
        "calibrated": _errors(result.after),
        "threshold": [
            {name: _rounded(value) for name, value in asdict(each).items() if value is not None} for each in result.thresholds
        ],
        "seed": result.seed,
        "date": result.created,
        "resift": result.version,
    }
    calibration = {**result.calibration.table(), MEASURED: {name: value for name, value in figures.items() if value != []}}
    content = {**tables, TABLE: settings.table(), CALIBRATION: calibration}
    return f"{HEAD}{tomli_w.dumps(content)}".encode()


def _errors(found: Reliability) -> dict[str, Any]:
    return {"ece": _rounded(found.ece), "brier": _rounded(found.brier)}


def _rounded(value: object) -> object:
    """A share as its value and the ends of its interval, rounded; anything else as it is."""
    return [round(number, 6) for number in (value.value, value.low, value.high)] if isinstance(value, Share) else value
