"""Log messages of long commands, on standard error."""

from __future__ import annotations

import logging
import sys

from resift.cli.streams import wrap
from resift.files.escapes import visible

INDENT = " " * 10
"""The width of a step's name in the toolchain's messages."""


class _Visible(logging.Formatter):
    """Makes each line of a message `visible`, and wraps it on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        lines = [visible(line) for line in super().format(record).split("\n")]
        if sys.stderr.isatty():
            lines = [part for line in lines for part in wrap(line, f"{INDENT}  ") or [""]]
        return "\n".join(lines)


def _unseen(record: logging.LogRecord) -> bool:
    """Whether its library has not shown the record itself, as huggingface_hub does, and transformers where CI is set."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger and logger.parent:
        if any(type(handler) is logging.StreamHandler for handler in logger.handlers):  # not one of its kinds, which writes a file
            return False
        logger = logger.parent
    return True


def show_messages() -> None:
    """Shows the toolchain's progress messages, and the warnings of other libraries that do not show them themselves."""
    messages = logging.StreamHandler(sys.stderr)
    messages.addFilter(_unseen)
    messages.setFormatter(_Visible("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[messages])
    logging.getLogger("resift_export").setLevel(logging.INFO)
