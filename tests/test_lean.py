"""What a fresh interpreter imports."""

from __future__ import annotations

import sys

import pytest

import resift
from resift import errors
from tests.support import children

HEAVY = (
    *("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "huggingface_hub", "resift_export"),
    *("ir_measures", "pytrec_eval", "bm25s", "matplotlib", "jinja2", "tomli_w", "scipy"),
    *("starlette", "uvicorn", "prometheus_client"),
    *("haystack", "narwhals", "pandas", "polars", "pyarrow"),
    *("langchain_core", "llama_index", "pydantic", "ray"),
)
PARTS = ("resift.evaluate", "resift.integrations", "resift.serve")
LATE = ("onnxruntime", "tokenizers")


def pulled(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of `names` a fresh interpreter has imported after running `code`."""
    code = f"import sys; {code}; print(*[name for name in {names} if name in sys.modules])"
    return children.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_import_pulls_neither_the_toolchain_nor_the_runtime():
    assert pulled("from resift import *", (*HEAVY, *PARTS, *LATE)) == []


def test_reranking_pulls_the_runtime_and_no_more():
    code = "from resift import Reranker; Reranker.load().rerank('a', ['b'])"
    assert pulled(code, (*HEAVY, *PARTS, *LATE)) == list(LATE)


def test_the_drop_in_pulls_neither_pytorch_nor_what_it_stands_for():
    code = (
        "from resift.integrations.sentence_transformers import CrossEncoder;"
        "model = CrossEncoder('cross-encoder/ms-marco-MiniLM-L12-v2'); model.predict([('a', 'b')]); model.rank('a', ['b'])"
    )
    assert pulled(code, (*HEAVY, "resift.evaluate", "resift.serve", *LATE, "sentence_transformers")) == list(LATE)


def test_modules_of_public_names_are_there_after_a_bare_import():
    code = "import resift; print(resift.errors.InputError.__name__, resift.settings.Settings.__name__)"
    done = children.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "InputError Settings\n"


def test_the_command_line_pulls_what_a_command_needs_when_it_runs():
    assert pulled("from resift.cli.main import parser; parser()", HEAVY) == []


def test_the_public_names_are_these():
    public = {name: getattr(resift, name) for name in resift.__all__}
    assert all(found.__name__ == name for name, found in public.items())
    assert {name for name, found in vars(errors).items() if isinstance(found, type)} <= public.keys()
    assert public.keys() <= set(dir(resift))
    with pytest.raises(AttributeError, match="module 'resift' has no attribute 'ranker'"):
        _ = resift.ranker
    assert {"Reranker", "Ranking", "RankedDocument", "Settings", "ResiftError"} <= set(resift.__all__)
