"""Attacks a server of its own with the worst bodies that it allows, or with connections that are held.

    python -m benchmarks hostile bodies [--rounds 3]
    python -m benchmarks hostile connections [--connections 1000] [--files 256] [--seconds 60] [--addresses 1]

`bodies` posts, for each field, the body of the allowed size that takes longest to read, and prints how much longer the longest
wait for /health then is than with an honest body of that size, and the processor time of the event loop. `connections` holds
connections of each kind from 127.0.0.2 (or from as many addresses as given), and opens those again that the server closes, while
honest clients from 127.0.0.1 rank. It prints the server's memory, the longest wait for /health, the hostile connections that are
open at the end, the share of a processor that the event loop takes, the honest clients' p95 compared with that without an attack,
how many of their requests failed, and the size of the log. The server runs with this interpreter and the code of --checkout. Exit
code 1 if a body costs more than --allowed-ms or ends with a 5xx, honest clients wait more than --allowed-ratio times as long as
without the attack, one of their requests fails, or the server's memory grows by more than --allowed-mb. Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.hostile import bodies, connections
from benchmarks.load.servers import ServerProcess, free_port, running
from benchmarks.material import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVE = "import sys; from resift.cli.main import main; sys.exit(main())"


def main() -> int:
    arguments = parse_arguments()
    rows = run_bodies(arguments) if arguments.attack == "bodies" else run_connections(arguments)
    (arguments.out / f"hostile-{arguments.attack}.json").write_text(json.dumps(rows, indent=1))
    failed = [str(row.get("kind", row.get("body"))) for row in rows if not row["holds"]]
    print("all within what is allowed" if not failed else f"DOES NOT HOLD: {', '.join(failed)}")
    return int(bool(failed) or not rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attack", choices=["bodies", "connections"])
    parser.add_argument("--kind", action="append", help="only this field or kind of connection; several may be given")
    parser.add_argument("--rounds", type=int, default=3, help="times that each body is posted (default: %(default)s)")
    parser.add_argument("--bytes", type=int, default=2 << 20, help="size of the bodies (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=1000, help="hostile ones (default: %(default)s)")
    parser.add_argument("--addresses", type=int, default=1, help="addresses that they come from (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="length of each attack (default: %(default)s)")
    parser.add_argument("--reopen", type=float, default=5, help="seconds until a closed one is opened again (default: %(default)s)")
    parser.add_argument("--files", type=int, default=256, help="files that the server may have open (default: %(default)s)")
    parser.add_argument(
        "--allowed-ms", type=float, default=150, help="wait for /health beyond an honest body's (default: %(default)s)"
    )
    parser.add_argument("--allowed-ratio", type=float, default=2, help="honest p95 / that without an attack (default: %(default)s)")
    parser.add_argument("--allowed-mb", type=float, default=200, help="more than without an attack (default: %(default)s)")
    parser.add_argument("--checkout", type=Path, default=REPOSITORY, help="repository of the server (default: this one)")
    parser.add_argument("--model", default="", help="artifact (default: the embedded model)")
    parser.add_argument("--flag", action="append", default=[], help="passed on to `resift serve`, as --flag=--max-connections=100")
    parser.add_argument("--out", type=Path, default=Path())
    return parser.parse_args()


def run_bodies(arguments: argparse.Namespace) -> list[dict]:
    rows = []
    print(f"{'body':34} {'status':>6} {'ms more':>8} {'CPU ms':>8} {'MB more':>8}")
    with server_of(arguments) as server:
        honest = bodies.measure(server, bodies.HONEST, arguments.bytes, arguments.rounds)
        for attack in bodies.ATTACKS:
            if arguments.kind and attack.name not in arguments.kind:
                continue
            found = bodies.measure(server, attack, arguments.bytes, arguments.rounds)
            more = 1000 * (found.seconds - honest.seconds)
            mb = found.mb - honest.mb
            row = {"body": attack.name, "status": found.status, "ms": more, "cpu_ms": 1000 * found.cpu, "mb": mb}
            rows.append({**row, "holds": more <= arguments.allowed_ms and mb <= arguments.allowed_mb and found.status < 500})
            print(f"{attack.name:34} {found.status:6} {more:8.0f} {1000 * found.cpu:8.0f} {mb:8.0f}", flush=True)
    return rows


def run_connections(arguments: argparse.Namespace) -> list[dict]:
    rows = []
    print(f"{'kind':22} {'MB':>6} {'silence s':>9} {'open':>5} {'busy':>5} {'p95 ms':>7} {'ratio':>6} {'failed':>6} {'log MB':>7}")
    for kind in [name for name in connections.KINDS if not arguments.kind or name in arguments.kind]:
        with server_of(arguments, files=arguments.files) as server:
            before = connections.measure(server, "", arguments)
            found = connections.measure(server, kind, arguments)
            log = server.log.stat().st_size / 1e6
        ratio = found.p95 / before.p95
        row = {"kind": kind, "mb": found.mb, "silence": found.silence, "open": found.open, "ratio": ratio, "failed": found.failed}
        grows = found.mb - before.mb > arguments.allowed_mb
        rows.append({**row, "before": before.p95, "holds": ratio <= arguments.allowed_ratio and not grows and not found.failed})
        print(
            f"{kind:22} {found.mb:6.0f} {found.silence:9.2f} {found.open:5} {found.busy:5.2f} {1000 * found.p95:7.0f} {ratio:6.2f}"
            f" {found.failed:6} {log:7.2f}  (alone: {before.mb:.0f} MB, {before.silence:.2f} s, {before.busy:.2f},"
            f" {1000 * before.p95:.0f} ms; {found.requests} requests)",
            flush=True,
        )
    return rows


@contextmanager
def server_of(arguments: argparse.Namespace, files: int | None = None) -> Iterator[ServerProcess]:
    """A running server of the checkout."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, "serve", "--port", port, "--threads", "1", *arguments.flag]
    command += ["--model", arguments.model] if arguments.model else []
    limit = f"ulimit -n {files}; " if files else ""
    with tempfile.TemporaryDirectory() as name:
        server = ServerProcess(
            "resift",
            ["bash", "-c", f'{limit}exec "$@"', "-", *map(str, command)],
            f"http://127.0.0.1:{port}",
            "/v2/rerank",
            Path(name) / "resift.log",
            ready="/ready",
            environment={"PYTHONPATH": ":".join(str(arguments.checkout / part) for part in ("engine", "export", "models"))},
        )
        with running(server):
            yield server


if __name__ == "__main__":
    sys.exit(main())
