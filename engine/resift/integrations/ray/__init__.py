"""Past one machine: Parquet of pools ranked by actors of Ray Data, and (in `serve`) the server on Ray Serve. Extra: ray."""

from resift.errors import ExtraError

try:
    import pyarrow.parquet  # noqa: F401 - only whether it is there
    import ray.data  # noqa: F401
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in {"resift", "resift_models"}:
        raise
    raise ExtraError(f"resift.integrations.ray needs {error.name}; install it with: pip install 'resift[ray]'") from error

from resift.integrations.ray.data import Ranked, RankPools, rerank_parquet

__all__ = ["RankPools", "Ranked", "rerank_parquet"]
