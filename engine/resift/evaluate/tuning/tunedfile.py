"""The settings file that `resift tune` writes: TOML for `Settings.read`, with the advice and its figures."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec

from resift.errors import ExtraError, InputError
from resift.settings import Settings, read_tables

if TYPE_CHECKING:
    import os

    from resift.evaluate.tuning.records import Tuning

HEAD = "# Written by `resift tune`. [retrieval] and [measured] are for the reader: no command applies them.\n\n"


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a file with its advice and budget."""

    settings: Settings
    candidates: int | None
    budget_ms: float | None
    model: str | None


def check_writer() -> None:
    """Raises ExtraError if TOML cannot be written; called before there is anything to write."""
    if find_spec("tomli_w") is None:
        raise ExtraError("writing TOML needs tomli-w, which is not installed: pip install 'resift[eval]'")


def encode_tuned(tuning: Tuning) -> bytes:
    """The file for the chosen point. Raises InputError if none was chosen, and like `check_writer`."""
    check_writer()
    import tomli_w

    point = tuning.chosen
    if point is None:
        raise InputError(f"no point holds the budget of {tuning.budget_ms} ms, so there are no settings to write")
    figures = {
        "model": tuning.model,
        "machine": tuning.machine,
        "p50_ms": round(point.latency_ms.p50, 3),
        "p95_ms": round(point.latency_ms.p95, 3),
        "budget_ms": tuning.budget_ms,
        "measure": tuning.measure,
        "quality": round(point.quality, 6),
        "quality_as_given": None if tuning.given is None else round(tuning.given, 6),
        "pools_judged": tuning.judged,
        "pools_timed": tuning.timed,
        "date": tuning.created,
        "resift": tuning.version,
    }
    calibration = point.settings.calibration
    tables = {
        "settings": point.settings.table(),
        **({} if calibration is None else {"calibration": calibration.table()}),
        "retrieval": {"candidates": point.candidates},
        "measured": {name: value for name, value in figures.items() if value is not None},
    }
    return f"{HEAD}{tomli_w.dumps(tables)}".encode()


def read_tuned(path: str | os.PathLike[str]) -> Advice:
    """The settings, with the number of candidates of [retrieval] and the budget and model of [measured]; None if missing.

    Raises InputError that names the file if it is not such a file.
    """
    tables = read_tables(path)
    try:
        advice = msgspec.convert(tables.get("retrieval", {}), _Retrieval)
        figures = msgspec.convert(tables.get("measured", {}), _Figures)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}; expected [retrieval] and [measured] as `resift tune` writes them") from error
    return Advice(settings=Settings.read(path), candidates=advice.candidates, budget_ms=figures.budget_ms, model=figures.model)


class _Retrieval(msgspec.Struct):
    candidates: int | None = None


class _Figures(msgspec.Struct):
    budget_ms: float | None = None
    model: str | None = None
