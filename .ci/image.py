"""Runs what the Dockerfile says, without Docker: its build stage in a folder, then the server as the image starts it.

    python .ci/image.py FOLDER

The server must refuse to start without a key, get healthy by the image's own check, and end with exit code 0 at SIGTERM. The bill
of materials must name what is installed. Uses the Python that runs it in place of the base image's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 120


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    stages = read_stages()
    source = folder / "source"
    copy_context(source)
    subprocess.run([sys.executable, "-m", "venv", folder / "base"], check=True)  # python and pip, as the base image has them
    path = f"{folder / 'base/bin'}:{os.environ['PATH']}"
    for instruction, arguments in stages[0]:
        if instruction == "RUN":
            print(f"RUN {arguments}", flush=True)
            subprocess.run(["sh", "-ec", inside(arguments, folder)], cwd=source, env={**os.environ, "PATH": path}, check=True)
    check_bill(folder / "opt/resift")
    image = dict(stages[-1])
    variables = dict(part.split("=", 1) for part in inside(image["ENV"], folder).replace("$PATH", path).split())
    environment = {**os.environ, **variables, "RESIFT_SERVE_PORT": free_port()}
    entry, health = json.loads(image["ENTRYPOINT"]), json.loads(image["HEALTHCHECK"].partition("CMD")[2])
    refused = subprocess.run(entry, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert refused.returncode == 1, refused
    assert "RESIFT_SERVE_API_KEY" in refused.stderr, refused.stderr
    check_server(entry, health, {**environment, "RESIFT_SERVE_API_KEY": "key"})
    print("the image's commands work")
    return 0


def read_stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, FROM first."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    stages: list[list[tuple[str, str]]] = []
    for instruction, _, arguments in (line.partition(" ") for line in lines if line.strip()):
        if instruction == "FROM":
            stages.append([])
        stages[-1].append((instruction, arguments.strip()))
    return stages


def copy_context(source: Path) -> None:
    """What .dockerignore lets through."""
    for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line.startswith("!"):
            path = REPOSITORY / line[1:]
            target = source / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, target)


def inside(command: str, folder: Path) -> str:
    """A command whose absolute folders lie in `folder`."""
    return re.sub(r"(?<![\w./])/(opt|sbom)\b", rf"{folder}/\1", command)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return str(listening.getsockname()[1])


def check_bill(installed: Path) -> None:
    """The bill of materials has each package that is installed, with its version."""
    bill = json.loads((installed / "sbom.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX", bill
    listed = {f"{component['name']}=={component['version']}" for component in bill["components"]}
    command = "from importlib.metadata import distributions as all; print(*(f'{each.name}=={each.version}' for each in all()))"
    found = subprocess.run([installed / "bin/python", "-c", command], capture_output=True, text=True, check=True).stdout
    assert set(found.split()) <= listed, set(found.split()) - listed


def check_server(entry: list[str], health: list[str], environment: dict[str, str]) -> None:
    """The image's own check says when the server is ready; SIGTERM ends it."""
    server = subprocess.Popen(entry, env=environment)
    try:
        until = time.monotonic() + SECONDS
        while subprocess.run(health, env=environment, stderr=subprocess.DEVNULL, check=False).returncode:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server did not get healthy"
        server.send_signal(signal.SIGTERM)
        assert server.wait(SECONDS) == 0
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
