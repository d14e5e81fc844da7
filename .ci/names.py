"""Names that a newcomer cannot understand at once, and class names that exist twice: prints them with their places, exit code 1.

Checked are modules, classes, functions, parameters, fields and constants of the library and the benchmarks; not local variables.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

ROOTS = ("engine", "export", "benchmarks", ".ci")
BANNED = {
    "alike": "what they have in common",
    "alone": "what is alone: single, only_full",
    "aside": "staged",
    "asked": "arguments, requested, expected",
    "beside": "external_weights, sibling",
    "enough": "limit, sufficient",
    "firsts": "starts, offsets",
    "given": "inputs, options, overrides",
    "handle": "what it does with it",
    "helper": "what it helps with",
    "helpers": "what they help with",
    "kept": "certified, retained, survivors",
    "least": "minimum",
    "left": "remaining, retained; rows_left",
    "lender": "weights_file",
    "made": "created, produced",
    "manager": "what it manages",
    "misc": "what is in it",
    "most": "maximum, limit",
    "others": "what they are: rest, peers",
    "outside": "external",
    "own": "whose it is",
    "said": "message, reported",
    "taken": "used, occupied",
    "told": "notified, report",
    "usual": "default",
    "util": "what is in it",
    "utils": "what is in it",
    "wanted": "requested, required",
}
"""With what to write instead. They are refused as a whole name, whatever its underscores and capitals."""
PREFIXES = ("handle_", "prepare_", "process_")
"""Beginnings of names that do not say what is done."""
OVERRIDES = {"handle_exit"}
"""Names that uvicorn gives."""
FILE_FIELDS = {("records.py", "given"), ("certificate.py", "kept")}
"""Fields that are written to files, whose names users know."""


def definitions(path: Path) -> list[tuple[str, str, int]]:
    """Kind, name and line of what a module defines, and of itself."""
    found = [("module", path.stem, 1)]
    tree = ast.parse(path.read_text(encoding="utf-8"), path.name)
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef():
                found.append(("class", node.name, node.lineno))
                found += [("field", name, line) for name, line in targets(node)]
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.append(("function", node.name, node.lineno))
                every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg)
                found += [("parameter", each.arg, each.lineno) for each in every if each is not None]
            case ast.Attribute(ctx=ast.Store()):
                found.append(("field", node.attr, node.lineno))
    return [*found, *(("constant", name, line) for name, line in targets(tree))]


def targets(node: ast.ClassDef | ast.Module) -> list[tuple[str, int]]:
    """What the body of a class or module assigns to."""
    found = []
    for statement in node.body:
        names = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        found += [(name.id, name.lineno) for name in names if isinstance(name, ast.Name)]
    return found


def main() -> int:
    faults = []
    classes: dict[str, list[str]] = defaultdict(list)
    for path in sorted(path for root in ROOTS for path in Path(root).rglob("*.py")):
        for kind, name, line in definitions(path):
            replacement = BANNED.get(name.strip("_").lower())
            if replacement and not (kind == "field" and (path.name, name) in FILE_FIELDS):
                faults.append(f"{path}:{line}: the {kind} {name}; say what it is, such as: {replacement}")
            if name.lower().lstrip("_").startswith(PREFIXES) and name not in OVERRIDES:
                faults.append(f"{path}:{line}: the {kind} {name}; say what is done")
            if kind == "class":
                classes[name].append(f"{path}:{line}")
    faults += [
        f"the class {name} is defined {len(places)} times: {', '.join(places)}"
        for name, places in sorted(classes.items())
        if len(places) > 1
    ]
    print("\n".join(faults) or "no banned name, and every class name once")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
