"""Ray: ranks Parquet files of pools with actors of Ray Data, and (in `serve`) runs the server on Ray Serve. Extra: ray."""

from resift.errors import ExtraError

try:
    import pyarrow.parquet  # noqa: F401 - checks that it is installed
    import ray.data  # noqa: F401
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in {"resift", "resift_models"}:
        raise
    raise ExtraError(f"resift.integrations.ray needs {error.name}; install it with: pip install 'resift[ray]'") from error

from resift.integrations.ray.data import Ranked, RankPools, rerank_parquet

__all__ = ["RankPools", "Ranked", "rerank_parquet"]
