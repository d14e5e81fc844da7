"""resift: reranks the documents that a retriever found, with a cross-encoder, on onnxruntime, tokenizers and numpy alone.

A public name is imported at its first use, so that `resift.cli.main` begins before anything that takes time is imported.
"""

TYPE_CHECKING = False  # importing typing takes longer than the rest of this module
if TYPE_CHECKING:
    from resift.errors import (
        ArtifactError,
        ClosedError,
        ExportError,
        ExtraError,
        InferenceError,
        InputError,
        LogitsError,
        OutOfMemoryError,
        OutputError,
        OverloadedError,
        ParityError,
        ProviderError,
        ResiftError,
    )
    from resift.plans import Plan, Stage
    from resift.ranking import RankedDocument, Ranking, Scored
    from resift.reranker import Reranker
    from resift.settings import Settings

    __version__: str
    """the version of the installed package"""

__all__ = [
    "ArtifactError",
    "ClosedError",
    "ExportError",
    "ExtraError",
    "InferenceError",
    "InputError",
    "LogitsError",
    "OutOfMemoryError",
    "OutputError",
    "OverloadedError",
    "ParityError",
    "Plan",
    "ProviderError",
    "RankedDocument",
    "Ranking",
    "Reranker",
    "ResiftError",
    "Scored",
    "Settings",
    "Stage",
]
_MODULES = ("errors", "plans", "settings", "ranking", "reranker")
"""The modules that define the public names; none imports one behind it."""

if not TYPE_CHECKING:  # with this function, a type checker would take any name for one of this module

    def __getattr__(name: str) -> object:
        """A public name, the version, or a module of public names.

        Raises ExtraError if a package that resift needs cannot be imported.
        """
        from importlib import import_module

        if name == "__version__":
            return import_module("importlib.metadata").version("resift")
        if name not in {*__all__, *_MODULES}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

        from resift.errors import importing

        with importing():
            if name in _MODULES:
                return import_module(f"{__name__}.{name}")
            modules = (import_module(f"{__name__}.{module}") for module in _MODULES)
            found = next(vars(module)[name] for module in modules if name in vars(module))
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        """The public names, too, before their first use."""
        return sorted({*globals(), *__all__, "__version__"})
