"""The parser, arguments and exit codes that the commands share."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from resift.cli import values
from resift.files.escapes import visible
from resift.settings import PRECISIONS, PROVIDERS, Settings

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["Parser"]  # noqa: SLF001 - argparse has no public name for it

FAULT, CHECK, INTERRUPTED = 1, 3, 130
EXIT_CODES = "exit codes: 0 done; 1 bad input or artifact; 2 bad command line; 3 a check failed; 130 interrupted"


class Parser(argparse.ArgumentParser):
    """An argument parser that prints its epilog as written, and whose errors cannot control a terminal."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def error(self, message: str) -> NoReturn:
        """Shows the usage and the message, and exits with code 2."""
        super().error(visible(message))


def add_model(command: argparse.ArgumentParser, metavar: str) -> None:
    """Adds the argument for the model to inspect, and --json."""
    command.add_argument(
        "model",
        metavar=metavar,
        nargs="?",
        help="a folder, a hub id or an embedded model's name (default: the default model)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def add_engine(command: argparse.ArgumentParser) -> None:
    """Adds the options for running an artifact. An option that is not given is None and does not override the settings file."""
    group = command.add_argument_group("engine")
    group.add_argument(
        "--settings", metavar="FILE", type=values.path, help="settings from a TOML file; options given here replace the file's"
    )
    group.add_argument("--provider", choices=["auto", *PROVIDERS], help="where to run (default: auto)")
    group.add_argument("--precision", choices=["auto", *PRECISIONS], help="precision to run (default: auto)")
    group.add_argument(
        "--threads",
        type=values.setting("threads"),
        metavar="N",
        help="batches at once, one thread each (default: the usable physical cores)",
    )
    group.add_argument(
        "--max-length",
        type=values.setting("max_length"),
        metavar="N",
        help="maximum number of tokens in a pair (default: the model's limit)",
    )
    group.add_argument(
        "--windows",
        type=values.setting("windows"),
        metavar="N",
        help="read a document that is too long in up to N windows; the best counts (default: 1)",
    )


def settings(arguments: argparse.Namespace) -> Settings:
    """The settings of the file of --settings, or the defaults, overridden by the options of `add_engine` and by --plan.

    Raises InputError if the file or a value cannot be used.
    """
    names = ("provider", "precision", "threads", "max_length", "windows", "plan")
    overrides: dict[str, Any] = {name: getattr(arguments, name) for name in names if getattr(arguments, name, None) is not None}
    return replace(Settings() if arguments.settings is None else Settings.read(arguments.settings), **overrides)
