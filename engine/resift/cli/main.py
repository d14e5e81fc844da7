"""`resift`: parses the command line, runs one command, and turns errors into one line and an exit code.

Everything is imported within `main`: an interrupt or a missing package ends an import outside of it with a traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes longer than this module
if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.cli.options import Parser

OVERVIEW = """resift {version}: reranks documents with a cross-encoder, without PyTorch.

Try:
  resift sample sample
  resift rerank "why are there two high tides a day" sample/documents.txt
  resift rerank --pools sample/pairs.csv --out ranked.jsonl

Commands:
{commands}
`resift --help` says what each does, and `resift COMMAND --help` how.
"""
EPILOG = """examples:
  resift sample sample
  resift rerank "how do tides work" documents.txt
  grep -h tide notes/*.txt | resift rerank "how do tides work" - --top-k 3
  resift eval pools.jsonl.gz
  resift serve --port 8787
  resift export ./my-cross-encoder ./my-artifact
  resift verify ./my-artifact
  resift info ./my-artifact
  resift doctor pools.jsonl.gz
  resift tune pools.jsonl --budget-ms 200 --out tuned.toml
  resift calibrate ./my-artifact pools.jsonl --precision 0.9 -o settings.toml
  resift prepare corpus.jsonl --store states
  resift questions corpus.jsonl --out queries.jsonl
  resift mine corpus.jsonl --queries queries.jsonl --out pairs.jsonl.gz
  resift train ./my-cross-encoder ./trained --data pairs.jsonl.gz

"""


def parser() -> Parser:
    """The parser of the whole command line. Raises ExtraError if a package that resift needs cannot be imported."""
    from resift.errors import importing

    with importing():
        from importlib.metadata import version
        from textwrap import fill

        from resift.cli import (
            calibrate,
            distill,
            doctor,
            export,
            info,
            mine,
            prepare,
            questions,
            rerank,
            sample,
            serve,
            store,
            train,
            tune,
            upgrade,
            verify,
        )
        from resift.cli import eval as evaluation
        from resift.cli.options import EXIT_CODES, Parser
        from resift.cli.streams import write_lines

        installed = version("resift")
    root = Parser(
        prog="resift", description="Rerank documents with a cross-encoder, without PyTorch.", epilog=f"{EPILOG}{EXIT_CODES}"
    )
    root.add_argument("--version", action="version", version=f"resift {installed}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND")
    for command in (
        sample,
        rerank,
        serve,
        evaluation,
        doctor,
        tune,
        calibrate,
        prepare,
        store,
        questions,
        mine,
        train,
        export,
        upgrade,
        distill,
        verify,
        info,
    ):
        command.add(commands)
    names = fill(", ".join(commands.choices), 80, initial_indent="  ", subsequent_indent="  ")
    overview = OVERVIEW.format(version=installed, commands=names)

    def show(_: object) -> int:
        write_lines(overview.splitlines())
        return 0

    root.set_defaults(run=show)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        from resift.cli.options import INTERRUPTED
        from resift.cli.streams import complain, unfailing_stderr

        with unfailing_stderr():
            complain("interrupted")
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    from resift.cli.options import CHECK, FAULT
    from resift.cli.streams import complain, unfailing_stderr
    from resift.errors import ParityError, ResiftError, import_failure

    with unfailing_stderr():
        try:
            arguments = parser().parse_args(argv)
            code: int = arguments.run(arguments)
        except ParityError as error:
            complain(error)
            return CHECK
        except ResiftError as error:
            complain(error)
        except ImportError as error:  # of a package that the command imports when it runs
            complain(import_failure(error))
        except MemoryError:
            complain("out of memory; pass fewer or shorter documents at once, or provide more memory")
        except OSError as error:
            named = [repr(name) for name in (error.filename, error.filename2) if name is not None]
            complain(f"cannot open, read or write {' or '.join(named) or 'a file'}: {error.strerror or error}")
        else:
            return code
        return FAULT
