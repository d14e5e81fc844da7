"""first_look: whether a student can be the first look of a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from resift.errors import ExportError, InputError
from resift.plans import FIRST_LOOK, FULL, Plan

if TYPE_CHECKING:
    from resift_export.checkpoint.load import Checkpoint


def file_of_look(file: str) -> str:
    """The file of a first look's variant, by that of the full graph's."""
    return f"{FIRST_LOOK}.{file.partition('.')[2]}"


def check_plan(plan: str | None, *, has_look: bool) -> None:
    """Raises InputError unless `plan` can be the default of an artifact with the full graph and, if `has_look`, a first look."""
    if plan is None:
        return
    names = [stage.graph for stage in Plan.parse(plan).stages]
    if names[-1] != FULL or not {FULL, FIRST_LOOK}.issuperset(names):
        raise InputError(
            f"the plan {plan} reads with {', '.join(names)}; expected {FULL} at the end, after {FIRST_LOOK} or nothing"
        )
    if FIRST_LOOK in names and not has_look:
        raise InputError(f"the plan {plan} needs a first look; add --first-look STUDENT, or leave the plan out")


def check_student(student: Checkpoint, checkpoint: Checkpoint) -> None:
    """Raises ExportError unless the student reads what the checkpoint reads: the same tokens, and pairs that are as long."""
    own, expected = (json.loads(each.tokenizer_json()) for each in (student, checkpoint))
    differing = [name for name in sorted(own.keys() | expected.keys()) if own.get(name) != expected.get(name)]
    if differing:
        raise ExportError(
            f"the first look {student.id} has another tokenizer than {checkpoint.id} (they differ in {', '.join(differing)}), but "
            "both read the same tokens; expected a student of that model, such as `resift distill` makes"
        )
    if student.prompt != checkpoint.prompt:
        raise ExportError(
            f"the first look {student.id} reads the prompt {student.prompt!r:.80} and {checkpoint.id} {checkpoint.prompt!r:.80}, "
            "but both read the same tokens; expected the same prompt"
        )
    if student.max_length < checkpoint.max_length:
        raise ExportError(
            f"the first look {student.id} reads {student.max_length} tokens of a pair and {checkpoint.id} {checkpoint.max_length}; "
            "expected a first look that reads as many"
        )


def check_cheaper(student: Checkpoint, operations: int, checkpoint: Checkpoint, full: int) -> None:
    """Raises ExportError unless the student's `operations` a token are fewer than the checkpoint's, `full`."""
    if operations >= full:
        raise ExportError(
            f"the first look {student.id} costs {operations} operations a token, {checkpoint.id} {full}; expected a cheaper model"
        )
