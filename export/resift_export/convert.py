"""convert: the whole pipeline, from checkpoint to artifact."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from transformers.utils import logging as transformers_logging

from resift.artifact.folder import Artifact
from resift_export.build.export import Export
from resift_export.build.first_look import check_plan
from resift_export.build.gate import check_runnable
from resift_export.build.reuse import check_search, first_look_of
from resift_export.build.staging import staged
from resift_export.checkpoint.source import folder_of
from resift_export.progress import no_report

if TYPE_CHECKING:
    from pathlib import Path

    from resift_export.progress import Report
    from resift_export.recipe import Recipe

log = logging.getLogger(__name__)


def convert(  # noqa: PLR0913 - the options of the command line, by name
    source: str,
    out: Path,
    recipe: Recipe,
    *,
    revision: str | None = None,
    name: str | None = None,
    first_look: str | None = None,
    plan: str | None = None,
    keep: str | None = None,
    allow_pickle: bool = False,
    force: bool = False,
    overwrite: bool = False,
    report: Report = no_report,
) -> Path:
    """Turns the checkpoint `source` (folder or hub id) into a verified artifact at `out`, and returns `out`.

    `first_look`: a cheaper checkpoint with the same tokenizer (folder or hub id) that decides which documents the full model
    scores. `plan`: the plan, as text, of calls that have a top_k and name no plan; None: the full model scores all their documents.
    `keep`: an earlier artifact of the checkpoint whose full graphs are copied unchanged, and so are its first look and its plan
    unless others are given; the gate measures them again. `report` is told the progress of every step that takes long.

    Raises ExportError if a checkpoint cannot be used or `out` cannot be written, InputError for bad calibration, gate or attached
    files, for a plan whose graphs the artifact does not have or for `force` with a search, and ParityError, with nothing written,
    if the artifact does not rank as its checkpoint does or the recall of the first look is too low, and `force` is not set.
    """
    check_search(recipe, force=force, keep=keep)
    recipe.check_files()
    earlier = None if keep is None else Artifact.find(keep)
    if earlier is not None and first_look is None and plan is None:
        plan = earlier.manifest.plan
    has_copied_look = earlier is not None and first_look_of(earlier) is not None
    check_plan(plan, has_first_look=first_look is not None or has_copied_look)
    check_runnable(recipe.variants())
    transformers_logging.disable_progress_bar()  # it would draw bars of its own
    sources = [folder_of(each) for each in (source, first_look) if each is not None] + ([] if earlier is None else [earlier.folder])
    with staged(out, overwrite=overwrite, sources=[each for each in sources if each is not None]) as (folder, scratch):
        export = Export(recipe, folder, scratch, earlier, report)
        with export.clock.step("load"):
            export.load(source, first_look, revision=revision, name=name, allow_pickle=allow_pickle)
        export.draft()
        certificate = export.look_further(export.freeze(export.mend_short_pairs(export.search(export.gate()))))
        if recipe.no_texts:
            certificate = certificate.without_texts()
        faults = export.faults(certificate)
        if faults and not force:
            raise faults[0]
        log.info("write     %s", out)
        export.contents.write(certificate, is_forced=bool(faults), plan=plan)
        log.info("took      %s", export.clock.summary())
    return out
