"""Prints how the outcomes of a run of the tests, and the versions that it ran with, differ from those of another.

Usage: differences.py BEFORE AFTER, where each stands for a BEFORE.xml of pytest --junitxml and a BEFORE.txt of pip freeze. The exit
code is 1 if a test fails now that did not before, or if the two runs have no test in common.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def outcomes(path: Path) -> dict[str, tuple[str, str]]:
    """By a test's name: passed, failed or skipped, and why."""
    found = {}
    for case in ET.parse(path).iter("testcase"):
        worst = next((part for kind in ("failure", "error", "skipped") if (part := case.find(kind)) is not None), None)
        outcome = "passed" if worst is None else "skipped" if worst.tag == "skipped" else "failed"
        reason = "" if worst is None else " ".join((worst.get("message") or "").split())[:200]
        name = f"{case.get('classname')}::{case.get('name')}" if case.get("classname") else str(case.get("name"))
        found[name] = (outcome, reason)
    return found


def versions(path: Path) -> dict[str, str]:
    lines = (line.partition("==") for line in path.read_text().splitlines())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in lines if version}


def listed(names: list[str], excluded: Iterable[str]) -> str:
    """Names of tests, each once with the number of its cases; a file's name alone if none of its tests is among the `excluded`."""
    files = {name.partition("::")[0] for name in excluded}
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        file = name.partition("::")[0]
        counts[name.partition("[")[0] if file in files else file] += 1
    return "\n".join(f"    {name}{f' ({count} cases)' if count > 1 else ''}" for name, count in counts.items())


def main(before: str, after: str) -> int:
    was, now = (versions(Path(f"{name}.txt")) for name in (before, after))
    for name in sorted(was.keys() & now.keys()):
        if was[name] != now[name]:
            print(f"version  {name} {was[name]} -> {now[name]}")
    ran, runs = (outcomes(Path(f"{name}.xml")) for name in (before, after))
    common = ran.keys() & runs.keys()
    changed = defaultdict(list)
    for name in runs:
        outcome, reason = runs[name]
        if outcome != (ran[name][0] if name in common else "passed"):
            changed[outcome, reason].append(name)
    tests = {name.partition("[")[0] for name in runs}  # versions of pytest write some cases' names in other ways
    if missing := [name for name, (outcome, _) in ran.items() if outcome != "skipped" and name.partition("[")[0] not in tests]:
        changed["not run", ""] = missing
    for (outcome, reason), names in sorted(changed.items()):
        excluded = (ran.keys() | runs.keys()) - set(names)
        print(f"{outcome:8} {len(names)}{f': {reason}' if reason else ''}\n{listed(names, excluded)}")
    counts = {kind: sum(outcome == kind for outcome, _ in runs.values()) for kind in ("passed", "skipped", "failed")}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()), f"of which {len(common)} ran before")
    return int(not common or any(outcome == "failed" for outcome, _ in changed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
