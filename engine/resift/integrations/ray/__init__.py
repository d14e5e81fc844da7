"""Ray: actors rank Parquet files of pools, and prepare documents; `serve` runs the server on Ray Serve. Extra: ray."""

from resift.errors import ExtraError

try:
    import pyarrow.parquet  # noqa: F401 - checks that it is installed
    import ray.data  # noqa: F401
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in {"resift", "resift_models"}:
        raise
    raise ExtraError(f"resift.integrations.ray needs {error.name}; install it with: pip install 'resift[ray]'") from error

from resift.integrations.ray.data import Ranked, RankPools, rerank_parquet
from resift.integrations.ray.prepare import fill_store

__all__ = ["RankPools", "Ranked", "fill_store", "rerank_parquet"]
