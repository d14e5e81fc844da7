"""first_look: checks whether a student can be the first look of a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from resift.errors import ExportError, InputError
from resift.plans import FIRST_LOOK, FULL, Plan

if TYPE_CHECKING:
    from resift_export.checkpoint.load import Checkpoint


def first_look_file(file: str) -> str:
    """The file of the first look's variant that belongs to the full graph's variant `file`."""
    return f"{FIRST_LOOK}.{file.partition('.')[2]}"


def check_plan(plan: str | None, *, has_first_look: bool) -> None:
    """Raises InputError unless `plan` can be an artifact's default plan; `has_first_look` says whether it has a first look."""
    if plan is None:
        return
    names = [stage.graph for stage in Plan.parse(plan).stages]
    if names[-1] != FULL or not {FULL, FIRST_LOOK}.issuperset(names):
        raise InputError(
            f"the plan {plan} has the stages {', '.join(names)}; expected {FULL} at the end, after {FIRST_LOOK} or alone"
        )
    if FIRST_LOOK in names and not has_first_look:
        raise InputError(f"the plan {plan} needs a first look; add --first-look STUDENT, or leave the plan out")


def check_student(student: Checkpoint, checkpoint: Checkpoint) -> None:
    """Raises ExportError unless the student reads the same tokens as the checkpoint, in pairs that are at least as long."""
    found, expected = (json.loads(each.tokenizer_json()) for each in (student, checkpoint))
    differing = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    if differing:
        raise ExportError(
            f"the first look {student.id} has another tokenizer than {checkpoint.id} (they differ in {', '.join(differing)}), but "
            "both have to read the same tokens; expected a student of that model, such as `resift distill` makes"
        )
    if student.prompt != checkpoint.prompt:
        raise ExportError(
            f"the first look {student.id} reads the prompt {student.prompt!r:.80} and {checkpoint.id} {checkpoint.prompt!r:.80}, "
            "but both have to read the same tokens; expected the same prompt"
        )
    if student.max_length < checkpoint.max_length:
        raise ExportError(
            f"the first look {student.id} reads {student.max_length} tokens of a pair and {checkpoint.id} {checkpoint.max_length}; "
            "expected a first look that reads at least as many"
        )


def check_cheaper(student: Checkpoint, operations: int, checkpoint: Checkpoint, full_operations: int) -> None:
    """Raises ExportError unless the student's `operations` per token are fewer than the checkpoint's `full_operations`."""
    if operations >= full_operations:
        raise ExportError(
            f"the first look {student.id} costs {operations} operations a token, {checkpoint.id} {full_operations}; "
            "expected a cheaper model"
        )
