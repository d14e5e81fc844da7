"""The code that the documentation shows: the blocks of a page, and a reader who follows them in order in a folder of their own."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import children

REPOSITORY = Path(__file__).parent.parent.parent
SITE = tuple(sorted((REPOSITORY / "docs").glob("*.md")))
PAGES = (
    REPOSITORY / "README.md",
    *SITE,
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "SECURITY.md",
    REPOSITORY / "examples" / "skills" / "resift" / "SKILL.md",
)
NOTE = re.compile(r"<!-- (not run|needs|file|output|background|may exit with [1-9])(?:: (.+))? -->")
EXIT = "may exit with "
INSTALLATION = re.compile(r"^pip (?:un)?install ([^&\n]+?)(?: && |$)", re.MULTILINE)
PORT = "8787"

# What the commands of a page say of a real model and much data, as it is said of a tiny model and a few pools: tiny models learn no
# relevance, so that the gate may refuse them, and have two layers. A busy machine may not tune to the page's time budget.
OF_TINY_MODELS = {
    "resift export ": "resift export --force --gate gate.jsonl ",
    "resift distill ": "resift distill --dev 0.4 --threads 1 --max-length 48 ",
    "--layers 6": "--layers 1 --pairs 64",
    "--split 6": "--split 1 --pairs 64",
    "--width 0.3": "--width 0.6",
    "--budget-ms 200 ": "--budget-ms 20000 ",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of code with what the comments directly above it say."""

    page: str
    line: int
    """of its fence, from 1"""
    language: str
    code: str
    notes: dict[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a page. Directives of Sphinx, such as {toctree}, are no code."""
    found: list[Block] = []
    notes: dict[str, str] = {}
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if line.startswith("```"):
            code = []
            for _, inner in lines:
                if inner == "```":
                    break
                code.append(inner)
            else:
                raise AssertionError(f"{path.name}:{number}: a block without an end")
            if "output" in notes and found and "needs" in found[-1].notes:  # what a skipped block would print
                notes = {**notes, "needs": found[-1].notes["needs"]}
            if not line.startswith("```{"):
                found.append(Block(path.name, number, line[3:], "\n".join(code) + "\n", notes))
            notes = {}
        elif line.startswith("<!--"):
            note = NOTE.fullmatch(line)
            assert note, f"{path.name}:{number}: a comment that says nothing to the tests: {line}"
            notes = {**notes, note[1]: note[2] or ""}
        else:
            assert not notes, f"{path.name}:{number}: a comment for a block that is not directly below it"
    return found


class Reader:
    """Who follows a page: Python in one namespace, commands in a shell, both in `folder`. `close` ends what runs meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.followed: set[Block] = set()
        self._namespace: dict[str, object] = {"__name__": "__main__"}
        self._said = ""
        self._server: subprocess.Popen[bytes] | None = None
        # Linux lets servers, which reuse addresses, listen on a port that is bound, and gives it to no one else meanwhile.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self._port = str(self._held.getsockname()[1])
        if sys.platform != "linux":
            self._held.close()
        (folder / ".curlrc").write_text("fail\n")  # a status of 400 or more is an exit code
        nowhere = "http://127.0.0.1:9"
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
            "HOME": str(folder),
            "CURL_HOME": str(folder),
            "HF_HUB_OFFLINE": "1",
            "NO_PROXY": "127.0.0.1",
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nowhere),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RESIFT_SERVE_PORT": self._port,
        }

    def follow(self, block: Block) -> None:
        """Runs a block, once; an AssertionError or its own exception says what went wrong."""
        if block in self.followed:
            return
        self.followed.add(block)
        if "file" in block.notes:
            path = self.folder / block.notes["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
        elif "output" in block.notes:
            assert self._said.strip() == block.code.strip()
        elif block.language == "python":
            self._said = self._run_python(block)
        elif block.language == "sh":
            self._said = self._run_shell(block)

    def _run_python(self, block: Block) -> str:
        code = compile("\n" * block.line + block.code, block.page, "exec")  # so that a traceback names the page's line
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, self._namespace)
        return said.getvalue()

    def _run_shell(self, block: Block) -> str:
        code = INSTALLATION.sub("", block.code).replace(PORT, self._port)
        for real, tiny in OF_TINY_MODELS.items():
            code = code.replace(real, tiny)
        command = ["bash", "-euo", "pipefail", "-c", code]
        if "background" in block.notes:
            self._serve(command)
            return ""
        done = children.run(command, cwd=self.folder, env=self._environment, capture_output=True, text=True)
        expected = [0, *(int(note.removeprefix(EXIT)) for note in block.notes if note.startswith(EXIT))]
        assert done.returncode in expected, f"{code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def _serve(self, command: list[str]) -> None:
        self._stop()
        self._server = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for _ in range(children.SECONDS * 10):
            assert self._server.poll() is None, self._server.communicate()[0].decode()
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/ready", timeout=children.SECONDS).close()
                return
            time.sleep(0.1)
        raise AssertionError(f"{command} is not ready after {children.SECONDS} s")

    def close(self) -> None:
        """Ends the server, and lets go of its port."""
        self._held.close()
        self._stop()

    def _stop(self) -> None:
        """Ends the server, which must end well, or like uvicorn by the signal, once it has shut down."""
        if self._server is not None:
            running, self._server = self._server, None
            os.killpg(running.pid, signal.SIGTERM)
            said = children.outputs(running)[0].decode()
            assert running.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM), said
