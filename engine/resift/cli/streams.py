"""Standard streams: lines for people, JSON for programs, and streams that are closed or whose reader has gone."""

from __future__ import annotations

import io
import os
import shutil
import sys
import textwrap
import unicodedata
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from resift.errors import OutputError
from resift.files.escapes import UNSAFE, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed import ReadableBuffer

MIN_WIDTH = 40
"""Minimum width of a paragraph, however narrow the terminal is."""
MIN_TEXT_WIDTH = 20
"""Minimum width of a text in a table, likewise."""
MESSAGE_LIMIT = 2000
"""Maximum number of characters in a line on standard error, as messages can contain names and keys of any length."""


def shorten(text: str, width: int) -> str:
    """`text` if it fits into `width` terminal columns (1 or more), otherwise its beginning with an ellipsis."""
    columns = end = 0
    for place, character in enumerate(text, 1):
        columns += _columns(character)
        if columns > width:
            return text[:end] + "…"
        if columns < width:
            end = place
    return text


def _columns(character: str) -> int:
    """Terminal columns of a character: 2 for East Asian wide and fullwidth (Unicode Standard Annex 11), 0 for marks and format."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def write_lines(lines: Iterable[str]) -> None:
    """Prints lines for people, always made `visible`; characters outside the encoding become ?.

    Raises OutputError if standard output is closed or cannot be written.
    """
    with _standard_output() as output:
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="replace")
        output.writelines(f"{visible(line)}\n" for line in lines)


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def paragraph(text: str, indent: str = "") -> list[str]:
    """A text for people as lines that fit the terminal, all but the first indented by two columns more; one line elsewhere."""
    return [indent + text] if terminal_width() is None else wrap(indent + text, f"{indent}  ")


def wrap(text: str, hanging: str) -> list[str]:
    """A text as lines that fit the terminal, all but the first with `hanging` before them."""
    width = max(MIN_WIDTH, shutil.get_terminal_size().columns)
    return textwrap.wrap(text, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


def write_json(record: object) -> None:
    r"""Prints one line of JSON in UTF-8, whatever the terminal's encoding is; characters in UNSAFE are written as \uNNNN.

    Raises OutputError if standard output is closed or cannot be written.
    """
    import msgspec

    text = msgspec.json.encode(record).decode()
    # These characters occur only within strings, where the escape means the same.
    escaped = UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    with _standard_output() as output:
        output.buffer.write(f"{escaped}\n".encode())


def complain(text: object) -> None:
    """Writes `resift: ` and `text` as one line to standard error; a long text is cut in the middle, as its end says what to do."""
    line = visible(" ".join(str(text).split()))
    if len(line) > MESSAGE_LIMIT:
        line = f"{line[: MESSAGE_LIMIT // 2]} … {line[-MESSAGE_LIMIT // 2 :]}"
    sys.stderr.write(f"resift: {line}\n")


@contextmanager
def _standard_output() -> Iterator[TextIO]:
    """Standard output, flushed at the end. If its reader has gone (head, less), the rest is dropped."""
    if sys.stdout is None:
        raise OutputError("standard output is closed; redirect it to a file, a pipe or /dev/null")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except KeyboardInterrupt:
        _drop(sys.stdout)
        raise
    except BrokenPipeError:
        _drop(sys.stdout)
    except OSError as error:
        _drop(sys.stdout)
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def _drop(stream: IO[str]) -> None:
    """Redirects the stream to the null device, so that buffered text does not fail again at exit."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class _UnfailingFile(io.FileIO):
    """A file whose writes never fail: content that cannot be written is dropped."""

    def write(self, content: ReadableBuffer) -> int:
        size = memoryview(content).nbytes
        try:
            return super().write(content) or size  # None: a full, non-blocking pipe
        except OSError:
            return size


@contextmanager
def unfailing_stderr() -> Iterator[None]:
    """Within the context, writes to standard error succeed even if it is closed or broken, so that no message ends a run.

    Closed standard streams are opened on the null device, so that no file opened later gets their descriptors.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    if sys.stderr is None:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
            yield
        return
    try:
        number = sys.stderr.fileno()
    except OSError:  # a stream without a descriptor, such as a test's
        yield
        return
    # On Windows, text for a console is in the encoding of its code page.
    encoding = (os.device_encoding(number) if sys.platform == "win32" else None) or sys.stderr.encoding
    raw = _UnfailingFile(number, "wb", closefd=False)
    with (
        io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=sys.stderr.errors, line_buffering=True) as messages,
        redirect_stderr(messages),
    ):
        yield
