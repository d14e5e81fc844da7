"""Compares resift with its rivals, on the same weights, pools and threads.

    python -m benchmarks compare [--queries 8] [--contenders resift-full,pytorch] [--cases dl19-30,words-95] [--folder .bench]
    python -m benchmarks compare --list                     the contenders and the cases
    python -m benchmarks compare --against FILE             also: which ratios fell since an earlier compare.json

Each contender runs in a process and a virtual environment of its own, which the first run makes in FOLDER/environments with pip and
the versions of constraints/compare. What they load (ONNX and OpenVINO files) is exported from the checkpoint once. A run that was
stopped goes on where it was: every turn is kept in FOLDER. A contender that cannot be installed or cannot load is named with its
reason. Prints tables and writes OUT/compare.json, OUT/compare.md and the plots OUT/compare-light and -dark, as .svg and .png.

Exit code 3 if a ratio fell by more than noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from benchmarks.compare import against, catalogue, report
from benchmarks.compare.cases import Case, every_case
from benchmarks.compare.models import ModelError, ModelForms
from benchmarks.compare.plot import plot
from benchmarks.compare.rounds import Measurement, measure_cases, measure_starts, tell
from benchmarks.compare.turns import KeptTurns
from benchmarks.environments import InstallError
from benchmarks.machine_facts import machine_facts
from benchmarks.material import CHECKPOINT, HUB_ID, REPOSITORY
from resift.artifact.folder import DEFAULT, embedded
from resift.errors import OutputError
from resift.files.lock import hold

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> int:
    arguments = parse_arguments()
    before = json.loads(arguments.against.read_bytes()) if arguments.against else None
    try:
        contenders = catalogue.chosen(arguments.contenders, arguments.folder / "environments")
        cases = chosen_cases(arguments.cases, every_case(arguments.queries, pair_length()))
        if before:
            against.check(before, {"format": report.FORMAT, "machine": machine_facts()})
    except (ValueError, against.MachineError) as error:
        print(f"benchmarks compare: {error}", file=sys.stderr)
        return 2
    if arguments.list:
        print("\n".join([*(f"{each.name:18}{each.title}" for each in contenders), *map(str, cases)]))
        return 0
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with hold(arguments.folder / "lock"):
        found = run(arguments, contenders, cases)
    written = write(found, arguments.out or arguments.folder)
    print(report.tables(found))
    print("\n".join(f"# {path}" for path in written))
    if not before:
        return 0
    changes = against.falls(before, found)
    print("\n".join(map(str, changes)) or "no ratio fell")
    return 3 if any(change.is_certain for change in changes) else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names: dict[str, Any] = {"type": lambda text: text.split(","), "default": [], "metavar": "A,B"}
    parser.add_argument(
        "--checkpoint",
        default=str(CHECKPOINT) if CHECKPOINT.is_dir() else HUB_ID,
        help="weights of the rivals, a folder or a hub id (default: %(default)s)",
    )
    parser.add_argument("--model", default="", help="artifact with the same weights (default: the embedded model)")
    parser.add_argument("--contenders", **names, help="only these (default: all)")
    parser.add_argument("--cases", **names, help="only these (default: all)")
    parser.add_argument("--queries", type=int, default=8, help="pools of each case of the main file (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="turns of each request (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no turn after as many (default: no limit)")
    parser.add_argument(
        "--baseline", default=catalogue.BASELINE, choices=sorted(catalogue.BY_NAME), metavar="A", help="what ratios are taken to"
    )
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".bench" / "compare", help="environments, models and turns")
    parser.add_argument("--out", type=Path, help="folder of the report (default: FOLDER)")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare.json of an earlier run on this machine")
    parser.add_argument("--list", action="store_true", help="list contenders and cases, and measure nothing")
    return parser.parse_args()


def pair_length() -> Any:
    """The tokens of a pair, by the embedded model's tokenizer."""
    tokenizer = Tokenizer.from_file(str(embedded()[DEFAULT] / "tokenizer.json"))
    return lambda query, document: len(tokenizer.encode(query, document))


def chosen_cases(names: Sequence[str], cases: Sequence[Case]) -> list[Case]:
    """The cases of these names (none: all). Raises ValueError for a name that no case has."""
    known = {case.name: case for case in cases}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no case {unknown[0]!r}; expected names out of {', '.join(known)}")
    return [case for case in cases if not names or case.name in names]


def run(arguments: argparse.Namespace, contenders: Sequence[catalogue.Contender], cases: Sequence[Case]) -> dict[str, Any]:
    """Installs, exports, measures; the content of the report."""
    logs = arguments.folder / "logs"
    logs.mkdir(exist_ok=True)
    models = ModelForms(arguments.checkpoint, arguments.model, arguments.folder / "models", arguments.folder / "environments")
    reasons: dict[str, str] = {}
    paths: dict[str, str] = {}
    for contender in contenders:
        try:
            contender.environment.install()
            paths[contender.name] = models.form(contender.takes)
        except InstallError as error:
            reasons[contender.name] = f"cannot be installed here: {error}"
        except ModelError as error:
            reasons[contender.name] = f"these weights cannot be exported for it: {error}"
        if contender.name in reasons:
            tell(f"{contender.name}: {reasons[contender.name]}")
    present = [contender for contender in contenders if contender.name in paths]
    here = f"{models.identity} {machine_facts()}"
    identities = {contender.name: hashlib.sha256(f"{contender.identity} {here}".encode()).hexdigest()[:16] for contender in present}
    measurement = Measurement(present, paths, identities, KeptTurns(arguments.folder / "turns.jsonl"), logs)
    measurement.until = time.monotonic() + 60 * arguments.minutes
    measure_starts(measurement, cases[0])
    for threads in sorted({case.threads for case in cases}):
        group = [case for case in cases if case.threads == threads]
        measure_cases(measurement, group, arguments.repeats)
    facts = {
        "machine": machine_facts(),
        "checkpoint": models.identity,
        "install_mb": {contender.name: contender.environment.megabytes() for contender in present},
        "settings": {"queries": arguments.queries, "repeats": arguments.repeats},
    }
    return report.content(cases, measurement.turns, arguments.baseline, facts, {**reasons, **measurement.reasons})


def write(found: dict[str, Any], out: Path) -> list[Path]:
    """Writes the report's files; returns their paths."""
    from resift.files.outputs import write_whole

    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "compare.json", json.dumps(found, indent=1).encode())
    write_whole(out / "compare.md", report.tables(found, markdown=True).encode())
    return [out / "compare.json", out / "compare.md", *plot(found, out)]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OutputError as error:
        sys.exit(f"benchmarks compare: {error}")
