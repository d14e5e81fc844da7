"""artifact: the trained checkpoint as a verified artifact, with probabilities fitted on the queries that were held out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resift.artifact.folder import Artifact
from resift.artifact.manifest import MANIFEST
from resift.errors import ArtifactError, OutputError
from resift.evaluate.calibration.calibrate import calibrate
from resift.evaluate.calibration.settingsfile import encode_calibrated
from resift.evaluate.tuning.tunedfile import check_writer
from resift.files.outputs import write_whole
from resift.settings import Settings
from resift_export.convert import convert
from resift_export.distill.recipe import RECIPE
from resift_export.progress import no_report
from resift_export.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from resift.evaluate.calibration.records import CalibrationResult
    from resift.evaluate.data.dataset import Dataset
    from resift_export.progress import Report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """Where the artifact of a trained checkpoint goes: the folder, and a settings file next to it."""

    folder: Path

    @property
    def settings(self) -> Path:
        """The file of the calibration, OUT2.toml."""
        return self.folder.with_name(f"{self.folder.name}.toml")

    def check(self, checkpoint: Path) -> None:
        """Raises OutputError if something else than an artifact of `checkpoint` is there, and ExtraError without tomli-w."""
        check_writer()
        if self.folder.resolve() == checkpoint.resolve():
            raise OutputError(f"{self.folder} is OUT, too; choose another folder for the artifact")
        if self.settings.exists() and not self.folder.exists():
            raise OutputError(f"{self.settings} already exists; choose another --artifact, or delete it")
        if self.folder.exists() and not self._is_of(checkpoint):
            raise OutputError(f"{self.folder} already exists; choose another --artifact, or delete it")

    def make(self, checkpoint: Path, held_out: Dataset, report: Report = no_report) -> CalibrationResult | None:
        """Exports what is not there yet, and fits the probabilities; None if both are there.

        Raises like `convert` and `calibrate`: ParityError, with nothing written, if the artifact does not rank as its checkpoint.
        """
        if self.folder.exists() and self.settings.exists():
            log.info("artifact  before: nothing to do")
            return None
        if not self.folder.exists():
            convert(str(checkpoint), self.folder, Recipe(), report=report)
        log.info("calibrate on %d held-out queries", len(held_out.pools))
        settings = Settings()
        result = calibrate(
            held_out,
            self.folder,
            settings=settings,
            progress=lambda *, pools, pairs, share: report("calibrate", pools, len(held_out.pools)),  # noqa: ARG005 - Progress
        )
        write_whole(self.settings, encode_calibrated(result, settings, {}))
        return result

    def _is_of(self, checkpoint: Path) -> bool:
        """Whether the folder holds an artifact that an interrupted run exported from `checkpoint`."""
        recipe = checkpoint / RECIPE
        try:
            name = Artifact.open(self.folder).manifest.model.id
        except ArtifactError:
            return False
        is_newer = recipe.exists() and (self.folder / MANIFEST).stat().st_mtime_ns >= recipe.stat().st_mtime_ns
        return is_newer and name == checkpoint.resolve().name
