"""`resift serve`: serves rerankers over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.cli.options import EXIT_CODES
from resift.errors import ExtraError
from resift.serve.config import Config, add_flags

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands

EPILOG = f"""Every setting may also be given in the environment, as RESIFT_SERVE_MAX_BODY_BYTES for --max-body-bytes, or in the file
of --config, as max_body_bytes = 1000000. Flags override the environment, which overrides the file.

examples:
  resift serve
  resift serve --model ./my-artifact --port 9000
  resift serve --model ./small --model ./large --alias rerank-v3.5=./large
  RESIFT_SERVE_API_KEY=... resift serve --host 0.0.0.0

{EXIT_CODES}"""
PACKAGES = ("h11", "prometheus_client", "starlette", "uvicorn")


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "serve",
        help="serve rerankers over HTTP, in the formats of Cohere, Jina and text-embeddings-inference",
        description="Serve rerankers over HTTP, in the formats of Cohere, Jina and text-embeddings-inference.",
        epilog=EPILOG,
    )
    add_flags(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serves until a signal arrives."""
    config = Config.gather({name: value for name, value in vars(arguments).items() if name != "run"})
    try:
        from resift.serve.run import run as serve
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        raise ExtraError(f"`resift serve` needs {package}; install it with: pip install 'resift[serve]'") from error
    return serve(config)
