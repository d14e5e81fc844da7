"""What several commands share: arguments and ways of writing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from resift.settings import PRECISIONS, PROVIDERS, Settings

if TYPE_CHECKING:
    import argparse

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse gives it no public name


def add_model(command: argparse.ArgumentParser, metavar: str) -> None:
    """The model to look at, and how to print what was seen."""
    command.add_argument(
        "model",
        metavar=metavar,
        nargs="?",
        help="a folder, a hub id or an embedded model's name (default: the default model)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def add_engine(command: argparse.ArgumentParser) -> None:
    """The choices of how to run an artifact."""
    group = command.add_argument_group("engine")
    group.add_argument("--provider", choices=["auto", *PROVIDERS], default="auto", help="where to run (default: auto)")
    group.add_argument("--precision", choices=["auto", *PRECISIONS], default="auto", help="which graph to run (default: auto)")
    group.add_argument(
        "--threads", type=int, metavar="N", help="batches at once, a thread each (default: the physical cores this process may use)"
    )
    group.add_argument("--max-length", type=int, metavar="N", help="tokens of a pair (default: the model's own)")


def write_text(text: str) -> None:
    """Writes to standard output, if there is one; letters that a terminal cannot show become ?."""
    if sys.stdout is not None:
        sys.stdout.write(text)


def write_json(record: object) -> None:
    """Writes one line of JSON to standard output, in UTF-8 whatever the terminal's own encoding."""
    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(msgspec.json.encode(record) + b"\n")


def settings(asked: argparse.Namespace) -> Settings:
    """Settings from the arguments of `add_engine`."""
    names = ("provider", "precision", "threads", "max_length")
    given: dict[str, Any] = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    return Settings(**given)
