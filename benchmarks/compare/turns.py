"""What was measured, kept in a file as it goes, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Turn:
    """One request to every contender, one right after the other: what ratios are made of."""

    case: str
    """the case's name, or START"""
    digest: str
    """of the texts and the threads"""
    group: int
    """number of the request in its case"""
    repeat: int
    identities: Mapping[str, str]
    """by contender: which environment and model answered"""
    answers: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """by contender: seconds, cpu_seconds, elsewhere, peak_mb, scores; of a start seconds, peak_mb, versions; or error"""

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.case, self.digest, self.group, self.repeat

    def covers(self, identities: Mapping[str, str]) -> bool:
        """Whether all these contenders answered in it, as they are now."""
        return all(self.identities.get(name) == identity for name, identity in identities.items())

    def only(self, names: Iterable[str]) -> Turn:
        """The turn with the answers of these contenders that were no errors."""
        retained = {name: self.answers[name] for name in names if "error" not in self.answers.get(name, {"error": ""})}
        return replace(self, answers=retained)


START = "start"
"""The case of turns that start a process."""


class KeptTurns:
    """The turns of a file, by key; the last one of a key counts. A torn last line, of a run that was killed, is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turns: dict[tuple[str, str, int, int], Turn] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            path.write_bytes(whole)
        for line in whole.splitlines():
            turn = Turn(**json.loads(line))
            self._turns[turn.key] = turn

    def find(self, blank: Turn) -> Turn | None:
        """The turn of the same key in which all its contenders answered, as they are now."""
        found = self._turns.get(blank.key)
        return found if found and found.covers(blank.identities) else None

    def add(self, turn: Turn) -> None:
        self._turns[turn.key] = turn
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(turn)) + "\n")
