"""Log messages of long commands, on standard error."""

from __future__ import annotations

import logging
import sys

from resift.files.escapes import visible


class _Visible(logging.Formatter):
    """Makes each line of a message `visible`."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(visible(line) for line in super().format(record).split("\n"))


def show_messages() -> None:
    """Shows the toolchain's progress messages and the warnings of other libraries."""
    messages = logging.StreamHandler(sys.stderr)
    messages.setFormatter(_Visible("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[messages])
    logging.getLogger("resift_export").setLevel(logging.INFO)
