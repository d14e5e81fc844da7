"""The parser, arguments and exit codes that the commands share."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import replace
from difflib import get_close_matches
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn

from resift.cli import values
from resift.files.escapes import visible
from resift.settings import PRECISIONS, PROVIDERS, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Commands = argparse._SubParsersAction["Parser"]  # noqa: SLF001 - argparse has no public name for it

FAULT, CHECK, INTERRUPTED = 1, 3, 130
SIMILAR = 0.7
"""How similar, in [0, 1], a name must be to be suggested: cpu for gpu would mean the opposite."""
EXIT_CODES = "exit codes: 0 done; 1 bad input or artifact; 2 bad command line; 3 a check failed; 130 interrupted"


class _Formatter(argparse.HelpFormatter):
    """Wraps texts between words only; lines of descriptions and epilogs that begin with a space, such as examples, stay."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            self._action_max_length += self._indent_increment  # argparse forgets that commands are indented

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for is_prose, group in groupby(text.strip().splitlines(), lambda line: bool(line) and not line[0].isspace()):
            block = list(group)
            lines += self._split_lines(" ".join(block), width) if is_prose else block
        return "\n".join(indent + line for line in lines)


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests options and commands, and whose errors cannot control a terminal."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(formatter_class=_Formatter, **keywords)

    def error(self, message: str) -> NoReturn:
        """Shows the usage and the message, and exits with code 2."""
        super().error(visible(message))

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Like argparse's, which calls that of the command's parser; what is unknown is an error where the options are known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            typed = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_suggestion(typed, options)}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            message = f"{error.message}{_suggestion(str(value), map(str, action.choices or ()))}"
            raise argparse.ArgumentError(action, message) from error


def _suggestion(typed: str, known: Iterable[str]) -> str:
    """What may have been meant, as the end of a message; empty if nothing is similar."""
    similar = get_close_matches(typed, list(known), n=1, cutoff=SIMILAR)
    return f"; did you mean {similar[0]}?" if similar else ""


def add_model(command: argparse.ArgumentParser, metavar: str) -> None:
    """Adds the argument for the model to inspect, and --json."""
    command.add_argument(
        "model",
        metavar=metavar,
        nargs="?",
        help="a folder, a hub id or an embedded model's name (default: the default model)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def add_template(group: argparse._ActionsContainer) -> None:
    """Adds the option for what the model reads of a document with fields."""
    group.add_argument(
        "--document-template",
        type=values.template,
        metavar="TEMPLATE",
        help='what the model reads of a document with fields, such as "{title} {text}" (default: its text)',
    )


def add_engine(command: argparse.ArgumentParser, *, has_states: bool = True) -> None:
    """Adds the options for running an artifact. An option that is not given is None and does not override the settings file.

    `has_states`: whether those are among them that say where states of documents are kept.
    """
    group = command.add_argument_group("engine")
    group.add_argument(
        "--settings", metavar="FILE", type=values.path, help="settings from a TOML file; options given here replace the file's"
    )
    group.add_argument(
        "--provider",
        choices=values.Providers(),
        metavar="PROVIDER",
        help=f"where to run: {', '.join(PROVIDERS)}, or cuda:1 for the second GPU (default: auto)",
    )
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
    if has_states:
        group.add_argument("--store", type=values.file_name, metavar="DIR", help="a store that `resift prepare` fills")
        group.add_argument(
            "--document-cache",
            type=values.setting("document_cache"),
            metavar="BYTES",
            help="memory for what a split graph computes of documents; 0 for none (default: 64 MiB)",
        )


def settings(arguments: argparse.Namespace) -> Settings:
    """The settings of the file of --settings, or the defaults, overridden by the options of the same names.

    Raises InputError if the file or a value cannot be used.
    """
    names = ["provider", "precision", "threads", "max_length", "windows", "plan", "document_template", "scores"]
    names += ["store", "document_cache"]
    overrides: dict[str, Any] = {name: getattr(arguments, name) for name in names if getattr(arguments, name, None) is not None}
    return replace(Settings() if arguments.settings is None else Settings.read(arguments.settings), **overrides)
