"""Runs a load test of the server: one scenario per command.

    python -m benchmarks load capacity|overload|endurance|fairness|sigterm|disconnect [--seconds 10]
    python -m benchmarks load compare [--rounds 3] [--infinity PYTHON]
    python -m benchmarks load endurance --minutes 10

Requests arrive as a Poisson process, whether or not the last ones were answered; latency counts from the time when a request
was due. Servers run as separate processes, in virtual environments under .bench that the first run creates, or with --here in
this one (pip install '.[serve]' fastapi sentence-transformers). infinity-emb needs a separate environment with older
libraries: pip install 'infinity-emb[server,torch]==0.0.78' 'transformers<5' 'sentence-transformers<4' 'typer<0.13' 'click<8.2'

Prints figures and checks, and writes OUT/load-SCENARIO.json. Exit code 1 if a check does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compare import catalogue
from benchmarks.load import endings, ratio, scenarios, servers, traffic
from benchmarks.machine_facts import machine_facts
from benchmarks.material import CHECKPOINT

if TYPE_CHECKING:
    from benchmarks.environments import Environment

SERVER_SCENARIOS = ("capacity", "overload", "endurance", "fairness", "sigterm", "disconnect")


def main() -> int:
    arguments = parse_arguments()
    resift = replace(servers.RESIFT, interpreter=sys.executable if arguments.here else "")
    resift.install()
    requests = traffic.read_requests(arguments.pools) if arguments.pools else traffic.mixed_requests(arguments.seed)
    sizes = [len(request.documents) for request in requests]
    print(f"# {len(requests)} requests of {min(sizes)} to {max(sizes)} documents, {sum(sizes) / len(sizes):.1f} on average")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.scenario == "compare":
            found = compare_servers(arguments, resift, requests, folder)
        else:
            server = servers.resift(resift, folder, model=arguments.model, threads=arguments.threads, flags=arguments.flag)
            with servers.running(server):
                found = run_scenario(arguments, server, requests)
    settings = {key: str(value) for key, value in vars(arguments).items()}
    report = {"scenario": arguments.scenario, "machine": machine_facts(), "settings": settings, **found}
    (arguments.out / f"load-{arguments.scenario}.json").write_text(json.dumps(report, indent=1))
    for check in found["checks"]:
        limit = next(f"{key} {check[key]}" for key in ("at most", "at least") if key in check)
        print(f"{'holds' if check['holds'] else 'DOES NOT HOLD':14} {check['check']}: {check['value']}, expected {limit}")
    return int(not all(check["holds"] for check in found["checks"]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", choices=[*SERVER_SCENARIOS, "compare"])
    parser.add_argument("--seconds", type=float, default=10, help="length of each load, except in compare (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="length of the endurance (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of overload and fairness (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of compare (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="rates tried for each server of compare (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=64, help="requests of each load of compare (default: %(default)s)")
    parser.add_argument("--library-pools", type=int, default=24, help="pools for the libraries' ratio (default: %(default)s)")
    parser.add_argument("--pools", type=Path, help="candidate pools to ask for (default: a mix made from the built-in gate)")
    parser.add_argument("--model", default="", help="artifact (default: the embedded model)")
    parser.add_argument("--checkpoint", default=str(CHECKPOINT), help="the same weights for PyTorch (default: %(default)s)")
    parser.add_argument(
        "--infinity", metavar="PYTHON", help="interpreter of an environment with infinity-emb, to include it in compare"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flag", action="append", default=[], help="passed on to `resift serve`, as --flag=--log-level=error")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--here", action="store_true", help="run all servers with this interpreter")
    parser.add_argument("--out", type=Path, default=Path())
    return parser.parse_args()


def run_scenario(
    arguments: argparse.Namespace, server: servers.ServerProcess, requests: list[traffic.LoadRequest]
) -> dict[str, Any]:
    """The figures and checks of a scenario that needs only resift's server."""
    length: dict[str, Any] = {"seconds": arguments.seconds, "seed": arguments.seed}
    match arguments.scenario:
        case "capacity":
            return scenarios.capacity(server, requests, **length)
        case "overload":
            return scenarios.overload(server, requests, **length, repeats=arguments.repeats)
        case "endurance":
            return scenarios.endurance(server, requests, **length, minutes=arguments.minutes)
        case "fairness":
            return scenarios.fairness(server, **length, repeats=arguments.repeats)
        case "sigterm":
            return endings.sigterm(server, requests, **length, model=arguments.model)
        case _:
            return endings.disconnect(server, seed=arguments.seed)


def compare_servers(
    arguments: argparse.Namespace, resift: Environment, requests: list[traffic.LoadRequest], folder: Path
) -> dict[str, Any]:
    """The figures and checks of resift's server compared with other servers."""
    fastapi = replace(servers.FASTAPI, interpreter=resift.interpreter)
    fastapi.install()
    running = [
        servers.resift(resift, folder, model=arguments.model, threads=arguments.threads, flags=arguments.flag),
        servers.fastapi(fastapi, folder, checkpoint=arguments.checkpoint, threads=arguments.threads),
    ]
    if arguments.infinity:
        running.append(servers.infinity(arguments.infinity, folder, checkpoint=arguments.checkpoint, threads=arguments.threads))
    return ratio.compare(
        running,
        [(catalogue.RESIFT, resift, arguments.model), (catalogue.PYTORCH, fastapi, arguments.checkpoint)],
        requests,
        ratio.Effort(
            arguments.threads, arguments.rounds, arguments.requests, arguments.steps, arguments.library_pools, arguments.seed
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
