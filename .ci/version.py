"""Names the version of a release, with its date, in every file that has them, or checks that they agree.

    python .ci/version.py 0.2.0           writes it, with today's date: review, commit, tag
    python .ci/version.py --check v0.2.0  exit code 1 unless the files are those of this tag

What users see of a release stands in CHANGELOG.md below *Unreleased*, which becomes the version's heading.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(rc[1-9][0-9]*)?")
IMAGES = ("examples/deploy/compose.yaml", "examples/deploy/kubernetes.yaml")
"""Files that name the container's image."""
UNRELEASED = "## Unreleased\n"
HEADING = re.compile(r"(?m)^## (.+)$")


class VersionError(Exception):
    """A file that does not have what a release needs."""


def replaced(text: str, pattern: str, new: str, name: str) -> str:
    """The text with the one place that matches replaced."""
    found, count = re.subn(pattern, lambda _: new, text, flags=re.MULTILINE)
    if count != 1:
        raise VersionError(f"{name} has {count} lines like {pattern}; expected one")
    return found


def rewritten(version: str, date: str, root: Path) -> dict[Path, str]:
    """The new text of every file that names a version, by its path."""
    texts = {root / name: (root / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CITATION.cff", *IMAGES)}
    for path, text in texts.items():
        if path.suffix == ".toml":
            texts[path] = replaced(text, r'^version = ".*"$', f'version = "{version}"', path.name)
        elif path.suffix == ".cff":
            dated = re.sub(r"(?m)^date-released: .*\n", "", text)
            texts[path] = replaced(dated, r"^version: .*$", f"version: {version}\ndate-released: {date}", path.name)
        else:
            texts[path] = replaced(text, r"image: resift:\S+$", f"image: resift:{version}", path.name)
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    if f"## {version} - " in text:
        raise VersionError(f"CHANGELOG.md has {version} already; expected a new version")
    if not unreleased(text).strip():
        raise VersionError("CHANGELOG.md has nothing below Unreleased; expected what users see of this version")
    texts[changelog] = text.replace(UNRELEASED, f"{UNRELEASED}\n## {version} - {date}\n", 1)
    return texts


def unreleased(changelog: str) -> str:
    """What stands below the heading Unreleased."""
    if changelog.count(UNRELEASED) != 1:
        raise VersionError("CHANGELOG.md has no heading Unreleased, or several; expected one")
    return re.split(r"(?m)^## ", changelog.partition(UNRELEASED)[2])[0]


def disagreements(version: str, root: Path) -> list[str]:
    """What is not as a release of this version has it, in a line each."""
    text = {path.name: path.read_text(encoding="utf-8") for path in (root / "CITATION.cff", root / "CHANGELOG.md")}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = dict(re.findall(r"(?m)^([a-z-]+): (\S+)$", text["CITATION.cff"]))
    found = []
    if project["version"] != version:
        found.append(f"pyproject.toml has version {project['version']}")
    if cited.get("version") != version:
        found.append(f"CITATION.cff has version {cited.get('version')}")
    found += [
        f"{name} names another image"
        for name in IMAGES
        if f"image: resift:{version}\n" not in (root / name).read_text(encoding="utf-8")
    ]
    if unreleased(text["CHANGELOG.md"]).strip():
        found.append("CHANGELOG.md has lines below Unreleased")
    expected = f"{version} - {cited.get('date-released')}"
    if HEADING.findall(text["CHANGELOG.md"])[1:2] != [expected]:
        found.append(f"CHANGELOG.md does not begin with the heading {expected}, the date that CITATION.cff has")
    return found


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Writes, or checks."""
    checks = arguments[:1] == ["--check"]
    version = arguments[-1].removeprefix("v") if len(arguments) == 1 + checks else ""
    if not VERSION.fullmatch(version):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if checks:
            faults = disagreements(version, root)
        else:
            for path, text in rewritten(version, dt.datetime.now(dt.UTC).date().isoformat(), root).items():
                path.write_text(text, encoding="utf-8")
            faults = disagreements(version, root)
    except VersionError as error:
        faults = [str(error)]
    print("\n".join(faults) or f"{version} in every file that names a version")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
