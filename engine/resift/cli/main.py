"""`resift`: parses the command line, runs one command, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from resift.cli import export, info, rerank, verify
from resift.errors import ParityError, ResiftError

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAULT, USAGE, CHECK, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = """examples:
  resift rerank "how do tides work" documents.txt
  grep -h tide notes/*.txt | resift rerank "how do tides work" - --top-k 3
  resift export ./my-cross-encoder ./my-artifact
  resift verify ./my-artifact
  resift info ./my-artifact

exit codes: 0 done; 1 the input or the artifact is at fault; 2 the command line is; 3 a check did not hold; 130 interrupted"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="resift",
        description="Rerank documents with a cross-encoder, without PyTorch.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"resift {version('resift')}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (rerank, export, verify, info):
        command.add(commands)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    asked = parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a document's letters shows ?
    try:
        code: int = asked.run(asked)
        if sys.stdout is not None:
            sys.stdout.flush()
    except ParityError as error:
        return _fail(error, CHECK)
    except ResiftError as error:
        return _fail(error, FAULT)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has what it wanted.
        _drop_output()
        return DONE
    except OSError as error:
        _drop_output()
        return _fail(f"cannot write the output: {error.strerror}", FAULT)
    return code


def _drop_output() -> None:
    """What is still buffered must not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: object, code: int) -> int:
    sys.stderr.write(f"resift: {' '.join(str(error).split())}\n")
    return code
