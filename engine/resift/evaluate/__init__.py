"""Evaluation (extra: eval): labelled data in; measures, diagnosis, a report and tuned settings out.

    from resift.evaluate import ArtifactSystem, evaluate, read_dataset

    evaluation = evaluate(read_dataset("pools.jsonl"), [ArtifactSystem(), ArtifactSystem("./my-artifact")])
    for system in evaluation.systems:
        print(system.name, system.measures["nDCG@10"], system.differences)

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resift.evaluate.calibration.calibrate import calibrate
    from resift.evaluate.calibration.records import CalibrationResult
    from resift.evaluate.data.dataset import Dataset, read_dataset
    from resift.evaluate.doctor.diagnosis import diagnose
    from resift.evaluate.evaluation import evaluate
    from resift.evaluate.measures import MEASURES
    from resift.evaluate.report.write import write_report
    from resift.evaluate.results import Evaluation, Finding
    from resift.evaluate.systems import ArtifactSystem, CheckpointSystem, GivenOrder, ScoresFile
    from resift.evaluate.tuning.records import Tuning
    from resift.evaluate.tuning.tune import tune

__all__ = [
    "MEASURES",
    "ArtifactSystem",
    "CalibrationResult",
    "CheckpointSystem",
    "Dataset",
    "Evaluation",
    "Finding",
    "GivenOrder",
    "ScoresFile",
    "Tuning",
    "calibrate",
    "diagnose",
    "evaluate",
    "read_dataset",
    "tune",
    "write_report",
]

_HOMES = {
    "calibration.calibrate": ("calibrate",),
    "calibration.records": ("CalibrationResult",),
    "data.dataset": ("Dataset", "read_dataset"),
    "doctor.diagnosis": ("diagnose",),
    "evaluation": ("evaluate",),
    "measures": ("MEASURES",),
    "report.write": ("write_report",),
    "results": ("Evaluation", "Finding"),
    "systems": ("ArtifactSystem", "CheckpointSystem", "GivenOrder", "ScoresFile"),
    "tuning.records": ("Tuning",),
    "tuning.tune": ("tune",),
}
"""Names by the module that defines them."""


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
