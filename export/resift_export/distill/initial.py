"""initial: the student before its training: the teacher's layers or another student, narrowed if its layers are to be narrower."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from resift_export.checkpoint.split import KEY, split_of
from resift_export.distill.batches import padded_batches
from resift_export.distill.narrow import narrow
from resift_export.distill.student import keep_activation, start_from, student_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from resift.encoding.encodings import Encodings
    from resift.encoding.tokenizer import PairTokenizer
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.distill.batches import PaddedBatch
    from resift_export.distill.data import Draws
    from resift_export.distill.options import Options

log = logging.getLogger(__name__)
FIT_PAIRS = 1_000
"""Number of pairs on which a narrower student is fitted."""


def blank_student(teacher: Checkpoint, keep: Sequence[int], options: Options) -> Any:
    """A student with the teacher's layers `keep`, whose configuration says how it is split."""
    student = student_of(teacher.model, keep)
    keep_activation(student, teacher)
    if options.layout is not None:
        setattr(student.config, KEY, {"layers": options.layout.layers, "document_position": options.layout.document_position})
    return student


class Beginning(NamedTuple):
    """From what a student begins."""

    teacher: Checkpoint
    start: Checkpoint | None
    """another student; None: the teacher's own layers"""
    draws: Draws
    tokenizer: PairTokenizer
    device: torch.device

    def complete(self, student: Any, keep: Sequence[int], width: float | None, should_continue: Callable[[], bool]) -> bool:
        """Gives the student, which has the teacher's layers `keep`, the weights with which its training begins.

        If it has a `width`, it is narrowed, which ends with False once `should_continue` returns False. Raises ExportError if
        the weights of `start` do not fit, or its frozen ones are not the teacher's.
        """
        source = self.teacher
        if self.start is not None:
            start_from(student, self.start.model, self.start.id)
            source, keep = self.start, range(self.start.layers)
        if width is None:
            return True
        batches = self._batches(source)
        return narrow(student.to(self.device), source.model.to(self.device), keep, width, batches, should_continue)

    def _batches(self, source: Checkpoint) -> list[PaddedBatch]:
        """The first FIT_PAIRS pairs that are drawn, or a few more; in batches of one query each if the `source` is split."""
        log.info("narrow    fitted on %d pairs", FIT_PAIRS)
        parts: list[Encodings] = []
        while sum(len(part) for part in parts) < FIT_PAIRS:
            parts.append(self.tokenizer.encode(*self.draws.at(len(parts))))
        groups = [parts] if split_of(source.model, source.id) is None else [[part] for part in parts]
        return [batch for group in groups for batch in padded_batches(self.teacher, group, self.device)]
