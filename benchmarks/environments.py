"""Virtual environments that the benchmarks make, each with the versions of a constraints file."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from benchmarks.material import REPOSITORY
from resift.files.outputs import write_whole

SOURCES = ("engine", "export", "models", "pyproject.toml")
"""What is installed of this repository."""


class InstallError(Exception):
    """An environment cannot be made: pip's reason."""


@dataclass(frozen=True)
class Environment:
    """Requirements, the versions that they are held to, and the virtual environment that has them."""

    name: str
    requirements: tuple[str, ...]
    constraints: Path = REPOSITORY / "constraints" / "test.txt"
    folder: Path = REPOSITORY / ".bench"
    """where the environment is, in a folder of its name"""
    interpreter: str = ""
    """interpreter of an environment that has the requirements already; empty: one is made"""

    @property
    def python(self) -> Path:
        """The interpreter of the environment that `install` makes, or `interpreter`."""
        if self.interpreter:
            return Path(self.interpreter)
        return self.folder / self.name / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def install(self) -> None:
        """Makes the environment, unless it is there with the same requirements. Raises InstallError if pip cannot."""
        if self.interpreter:
            return
        content, former = self._content(), self._stamp_content()
        if former == content:
            return
        if former and {**former, "sources": ""} == {**content, "sources": ""}:  # only the working tree has changed
            self._pip("--no-deps", "--force-reinstall", *self.requirements)
        else:
            print(f"# installing {self.name}: {' '.join(self.requirements)}", file=sys.stderr, flush=True)
            venv.create(self.folder / self.name, with_pip=True, clear=True)
            self._pip("-c", str(self.constraints), *self.requirements)
        self.stamp()

    def stamp(self) -> None:
        """Notes that the environment has the requirements."""
        write_whole(self._stamp_file, json.dumps(self._content(), indent=1).encode())

    @property
    def identity(self) -> str:
        """Tells environments of different contents apart."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()[:16]

    def megabytes(self) -> float:
        """Size of what the requirements bring, without pip, compiled bytecode and the interpreter."""
        # lib64 is a link to lib
        (packages,) = {path.resolve() for path in (self.folder / self.name).glob("[Ll]ib*/**/site-packages")}
        ours = [file for file in packages.rglob("*") if file.is_file() and not file.is_symlink() and file.suffix != ".pyc"]
        return sum(file.stat().st_size for file in ours if not file.relative_to(packages).parts[0].startswith(INSTALLERS)) / 1e6

    @property
    def _stamp_file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def _stamp_content(self) -> dict[str, object]:
        return json.loads(self._stamp_file.read_text()) if self._stamp_file.exists() and self.python.exists() else {}

    def _content(self) -> dict[str, object]:
        here = any(requirement.startswith(str(REPOSITORY)) for requirement in self.requirements)
        requirements = [requirement.replace(str(REPOSITORY), ".") for requirement in self.requirements]
        versions = hashlib.sha256(self.constraints.read_bytes()).hexdigest()
        return {"requirements": requirements, "constraints": versions, "sources": digest_of_sources() if here else ""}

    def _pip(self, *arguments: str) -> None:
        if messages := self._pip_errors(*arguments):
            # Of a locked version that this system has no distribution of, pip says only that it conflicts with the request.
            raise InstallError(pip_reason(self._pip_errors("--dry-run", "--no-deps", *self.requirements) or messages))

    def _pip_errors(self, *arguments: str) -> str:
        command = [str(self.python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, check=False)
        return (done.stderr or "pip gave no reason") if done.returncode else ""


def pip_reason(messages: str) -> str:
    """The last line of what pip said that is an error, or else its last line."""
    lines = messages.strip().splitlines()
    return [*lines[-1:], *(line for line in lines if line.startswith("ERROR: "))][-1].removeprefix("ERROR: ")


INSTALLERS = ("pip", "setuptools", "_distutils_hack")


def digest_of_sources(root: Path = REPOSITORY) -> str:
    """A digest of the files that an installation of this repository has."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = root / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
