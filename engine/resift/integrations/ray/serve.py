"""Ray Serve: the server's app, all of its APIs, in replicas whose number follows the load. Extra: ray-serve.

RESIFT_SERVE_API_KEY=... serve run resift.integrations.ray.serve:application model=./my-artifact threads=2 max_replicas=8
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from resift.errors import ExtraError, InputError
from resift.serve.config import PREFIX, Config

try:
    from ray import serve

    from resift.serve import logs
    from resift.serve.app import build
    from resift.serve.models import Models
    from resift.serve.service import Service
except ImportError as error:
    if (error.name or "").startswith("resift"):
        raise
    raise ExtraError(f"resift on Ray Serve needs {error.name}; install it with: pip install 'resift[ray-serve]'") from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.applications import Starlette

SCALE = {"min_replicas": 1, "max_replicas": 8}
"""The default minimum and maximum of replicas."""
RAY_SETTINGS = (
    "host",
    "port",
    "uds",
    "root_path",
    "max_connections",
    "max_peer_connections",
    "trusted_proxy",
    "header_seconds",
    "write_seconds",
    "keep_alive_seconds",
    "shutdown_seconds",
)
"""Settings of `resift serve` that Ray Serve has instead, as http_options and graceful_shutdown_timeout_s."""


def application(arguments: Mapping[str, Any]) -> serve.Application:
    """The application for `serve.run(application({...}))`, `serve run` and Serve's configuration file.

    `arguments`: `min_replicas` and `max_replicas`, and the settings of `resift serve` by their names in its TOML file, which are
    also read from the environment here. A replica takes `threads` CPUs (default: 1) and a GPU with provider "cuda". For
    Serve's other options: `deployment(config).options(...).bind()`.

    Raises InputError for a name that is not a setting, or a value that cannot be used. As Serve may listen for other machines,
    `api_key`, `api_key_file` or `no_auth` is required.
    """
    flags = dict(arguments)
    scale = {name: _replicas(name, flags.pop(name, default)) for name, default in SCALE.items()}
    if scale["min_replicas"] > scale["max_replicas"]:
        raise InputError(
            f"min_replicas is {scale['min_replicas']} and max_replicas {scale['max_replicas']}; expected the first to be no larger"
        )
    for name in flags:
        if name in RAY_SETTINGS:
            raise InputError(f"{name} is a setting of Ray Serve; expected it in its http_options or deployment options")
        if name != "config" and name not in Config.__struct_fields__:
            allowed = [field for field in (*SCALE, *Config.__struct_fields__) if field not in RAY_SETTINGS]
            raise InputError(f"{name!r:.200} is not a setting; expected one of {', '.join(allowed)}")
    config = Config.gather(flags)
    if not (config.is_keyed or config.no_auth):
        raise InputError(f"Ray Serve may listen for other machines: set {PREFIX}API_KEY, or pass no_auth=true")
    return deployment(config, **scale).bind()


def deployment(config: Config, *, min_replicas: int = 1, max_replicas: int = 8) -> serve.Deployment:
    """The deployment of an app for `config`; its `options` can be changed. The host, port and times of connections are not used.

    A replica is ready once its models have run. It accepts up to `max_concurrent_requests` at once, so that it answers 429 itself
    as `resift serve` does, while Serve starts further replicas.
    """
    engine = config.engine()
    threads = 1 if engine.threads == "auto" else engine.threads

    def app() -> Starlette:
        return _app(config, threads)

    return serve.deployment(
        serve.ingress(app)(),
        name="resift",
        max_ongoing_requests=config.max_concurrent_requests,
        autoscaling_config={"min_replicas": min_replicas, "max_replicas": max_replicas},
        ray_actor_options={"num_cpus": threads, "num_gpus": int(engine.provider in ("cuda", "tensorrt"))},
    )


def _app(config: Config, threads: int) -> Starlette:
    """The app of a replica, in whose process this runs."""
    import msgspec

    logs.configure(config.log_level)
    models = Models.load(msgspec.structs.replace(config, threads=threads))
    service = Service(config, models)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await service.warm_up()
        try:
            yield
        finally:
            service.stop()
            models.close()

    return build(service, lifespan)


def _replicas(name: str, value: object) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise InputError(f"{name} is {value!r:.200}; expected a number of replicas, 1 or more")
    return int(text)
