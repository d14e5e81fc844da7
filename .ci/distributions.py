"""Checks what a wheel and an sdist hold, and prints their sizes and hashes: python .ci/distributions.py FOLDER

Exit code 1 for a file that does not belong there, a licence that is missing, a size beyond the budget, or another version than that
of pyproject.toml.
"""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import zipfile
from hashlib import sha256
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
MEGABYTES = {".whl": 60, ".gz": 60}
"""Budgets; PyPI takes files of at most 100."""
PACKAGES = {"resift", "resift_export", "resift_models"}
DATA = {".css", ".html", ".j2", ".js", ".json", ".jsonl", ".md", ".onnx", ".py", ".typed", ".svg", ".toml"}
"""Endings of what a wheel's packages hold."""
NAMES = {"LICENSE", "NOTICE"}


def names_in(path: Path) -> list[str]:
    """The files of a wheel, or of an sdist below its folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return wheel.namelist()
    with tarfile.open(path) as sdist:
        return [str(PurePosixPath(*PurePosixPath(member.name).parts[1:])) for member in sdist.getmembers() if member.isfile()]


def faults_of_wheel(names: list[str], version: str, licences: list[str]) -> list[str]:
    """What is wrong with the files of a wheel."""
    metadata = f"resift-{version}.dist-info"
    found = [f"holds {name}" for name in names if name.split("/")[0] not in {*PACKAGES, metadata}]
    inner = [PurePosixPath(name) for name in names if name.split("/")[0] in PACKAGES]
    found += [f"holds {path}" for path in inner if path.suffix not in DATA and path.name not in NAMES]
    found += [f"lacks {metadata}/licenses/{name}" for name in licences if f"{metadata}/licenses/{name}" not in names]
    return found


def faults_of_sdist(names: list[str], licences: list[str]) -> list[str]:
    """What is wrong with the files of an sdist."""
    found = [f"lacks {name}" for name in ("pyproject.toml", "README.md", "CHANGELOG.md", *licences) if name not in names]
    return found + [f"holds {name}" for name in names if re.search(r"^(\.git|\.venv|dist|build)/|\.pyc$", name)]


def main(folder: Path, root: Path = ROOT) -> int:
    """Checks the distributions in a folder."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    licences = sorted(str(path.relative_to(root).as_posix()) for each in project["license-files"] for path in root.glob(each))
    expected = {f"resift-{project['version']}-py3-none-any.whl", f"resift-{project['version']}.tar.gz"}
    paths = sorted(folder.iterdir())
    if {path.name for path in paths} != expected:
        print(f"{folder} holds {', '.join(path.name for path in paths)}; expected {' and '.join(sorted(expected))}")
        return 1
    faults: list[str] = []
    for path in paths:
        content = path.read_bytes()
        size = len(content) / 1e6
        names = names_in(path)
        print(f"{path.name}  {size:.1f} MB  {len(names)} files  sha256 {sha256(content).hexdigest()}")
        wrong = faults_of_wheel(names, project["version"], licences) if path.suffix == ".whl" else faults_of_sdist(names, licences)
        if size > MEGABYTES[path.suffix]:
            wrong.append(f"has {size:.1f} MB; expected at most {MEGABYTES[path.suffix]}")
        faults += [f"{path.name} {fault}" for fault in wrong]
    print("\n".join(faults) or f"licences: {', '.join(licences)}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
