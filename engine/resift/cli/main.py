"""`resift`: parses the command line, runs one command, and turns errors into one line and an exit code."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from resift.cli import distill, doctor, export, info, rerank, serve, tune, verify
from resift.cli import eval as evaluation
from resift.cli.options import CHECK, EXIT_CODES, FAULT, INTERRUPTED, Parser
from resift.cli.streams import complain, unfailing_stderr
from resift.errors import ParityError, ResiftError

if TYPE_CHECKING:
    from collections.abc import Sequence

EPILOG = f"""examples:
  resift rerank "how do tides work" documents.txt
  grep -h tide notes/*.txt | resift rerank "how do tides work" - --top-k 3
  resift eval pools.jsonl.gz
  resift serve --port 8787
  resift export ./my-cross-encoder ./my-artifact
  resift verify ./my-artifact
  resift info ./my-artifact
  resift doctor pools.jsonl.gz
  resift tune pools.jsonl --budget-ms 200 --out tuned.toml

{EXIT_CODES}"""


def parser() -> Parser:
    """The parser of the whole command line."""
    root = Parser(prog="resift", description="Rerank documents with a cross-encoder, without PyTorch.", epilog=EPILOG)
    root.add_argument("--version", action="version", version=f"resift {version('resift')}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (rerank, serve, evaluation, doctor, tune, export, distill, verify, info):
        command.add(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    with unfailing_stderr():
        arguments = parser().parse_args(argv)
        try:
            code: int = arguments.run(arguments)
        except ParityError as error:
            return _fail(error, CHECK)
        except ResiftError as error:
            return _fail(error, FAULT)
        except KeyboardInterrupt:
            return _fail("interrupted", INTERRUPTED)
        except MemoryError:
            return _fail("out of memory; pass fewer or shorter documents at once, or provide more memory", FAULT)
        except OSError as error:
            named = [repr(name) for name in (error.filename, error.filename2) if name is not None]
            return _fail(f"cannot open, read or write {' or '.join(named) or 'a file'}: {error.strerror or error}", FAULT)
        return code


def _fail(error: object, code: int) -> int:
    complain(error)
    return code
