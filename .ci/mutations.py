"""Changes one place of a room's code at a time and prints which changes its tests do not notice.

Usage, in an environment with the extra `test`: mutations.py ROOM [--sample N] [--seed N], where ROOM is a folder of engine/resift
that has a folder of the same name in tests/engine. The checkout is copied, never changed. A change counts as noticed if a test
fails or the run takes longer than SLOWEST.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SLOWEST = 600
"""Seconds after which a run of the tests is taken to hang."""
OTHER_OPERATOR: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
}  # fmt: skip


class Mutation(NamedTuple):
    """One change of a file."""

    path: Path
    line: int
    was: str
    now: str
    source: str
    """the whole file with the change"""


def mutations(path: Path) -> Iterator[Mutation]:
    """Every change of a file that this program knows: another operator or number, a condition negated, a statement left out."""
    text = path.read_text()
    tree = ast.parse(text)
    ignored = {id(part) for node in ast.walk(tree) for part in _unexecuted(node)}
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        for undo in _changes(node):
            place = next(part for part in (node, *ast.walk(node)) if hasattr(part, "lineno"))
            yield Mutation(path, place.lineno, text.splitlines()[place.lineno - 1].strip(), undo.label, ast.unparse(tree))
            undo()


class _Undo:
    def __init__(self, node: ast.AST, field: str, value: object, label: str) -> None:
        self.node, self.field, self.was, self.label = node, field, getattr(node, field), label
        setattr(node, field, value)

    def __call__(self) -> None:
        setattr(self.node, self.field, self.was)


def _unexecuted(node: ast.AST) -> Iterator[ast.AST]:
    """Parts that do not run or only describe: annotations, docstrings, messages of errors, imports for type checking."""
    for field in ("annotation", "returns"):
        if getattr(node, field, None) is not None:
            yield from ast.walk(getattr(node, field))
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        yield from ast.walk(node)
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        yield from ast.walk(node)


def _changes(node: ast.AST) -> Iterator[_Undo]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        other = OTHER_OPERATOR[type(node.ops[0])]
        yield _Undo(node, "ops", [other()], other.__name__)
    elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in OTHER_OPERATOR:
        other = OTHER_OPERATOR[type(node.op)]
        yield _Undo(node, "op", other(), other.__name__)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _Undo(node, "value", not node.value, f"{not node.value}")
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield _Undo(node, "value", node.value + 1, f"{node.value + 1}")
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield _Undo(node, "test", ast.UnaryOp(ast.Not(), node.test), "the condition negated")
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list):
            for number, statement in enumerate(block):
                if isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign | ast.Return | ast.Continue) and not (
                    isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
                ):
                    without = [*block[:number], ast.copy_location(ast.Pass(), statement), *block[number + 1 :]]
                    yield _Undo(node, field, without, f"without `{ast.unparse(statement).splitlines()[0]}`")


def noticed(room: str, checkout: Path) -> bool:
    """Whether the room's tests fail in the checkout."""
    paths = os.pathsep.join(str(checkout / part) for part in ("engine", "export", "models"))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", f"tests/engine/{room}"]
    try:
        run = subprocess.run(
            command, cwd=checkout, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, timeout=SLOWEST, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    return run.returncode != 0


def main() -> None:
    """Prints the changes that were not noticed, and the share of those that were."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("room")
    parser.add_argument("--sample", type=int, default=50, help="number of changes, drawn at random (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        checkout = Path(work) / "checkout"
        shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", "__pycache__"), symlinks=True)
        found = [each for path in sorted((checkout / "engine/resift" / arguments.room).rglob("*.py")) for each in mutations(path)]
        if noticed(arguments.room, checkout):
            sys.exit(f"the tests fail without any change, or take longer than {SLOWEST} s")
        drawn = random.Random(arguments.seed).sample(found, min(arguments.sample, len(found)))  # noqa: S311 - to be repeated
        kept = 0
        for number, each in enumerate(drawn, 1):
            original = each.path.read_text()
            each.path.write_text(each.source)
            if noticed(arguments.room, checkout):
                kept += 1
            else:
                sys.stdout.write(f"not noticed: {each.path.relative_to(checkout)}:{each.line}: {each.now}: {each.was}\n")
            each.path.write_text(original)
            sys.stdout.write(f"{kept} of {number} noticed\n")
            sys.stdout.flush()
    sys.stdout.write(
        f"{arguments.room}: {kept} of {len(drawn)} changes noticed, of {len(found)} possible (seed {arguments.seed})\n"
    )


if __name__ == "__main__":
    main()
