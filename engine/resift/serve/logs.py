"""Logs: one JSON object per line on standard error. Texts of requests are logged only if the settings say so."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

LOGGER = logging.getLogger("resift.serve")


class JsonLines(logging.Formatter):
    """Writes a record as JSON; the fields are those of `log`."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, event and the record's fields; a traceback as one string."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(level: str) -> None:
    """Sends this server's records, and uvicorn's, to standard error as JSON lines."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(JsonLines())
    for name in (LOGGER.name, "uvicorn", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [lines] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(level.upper() if name == LOGGER.name else logging.WARNING)


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Writes a record of plain fields, with the traceback of `error`."""
    LOGGER.log(level, event, exc_info=error, extra={"fields": fields})
