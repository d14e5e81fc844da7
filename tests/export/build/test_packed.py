"""Packed graphs of an export: what is compared, what is refused, and what --keep copies."""

from __future__ import annotations

import pytest

from resift.errors import ExportError, InputError
from resift_export.build import packed
from resift_export.build.draft import TracedModel
from resift_export.checkpoint import load as checkpoint
from resift_export.convert import convert
from resift_export.graph.half import to_float16
from resift_export.graph.mask import add_mask
from resift_export.graph.optimize import optimize
from resift_export.graph.weights import map_weights
from resift_export.recipe import Bounds, Recipe
from tests.conftest import trace_once

FILE = "model.float16.onnx"


@pytest.fixture
def made(source, tmp_path, toolchain):
    """made(recipe): the packed graphs of a tiny BERT."""
    loaded = checkpoint.load(source)
    traced = TracedModel(loaded, map_weights(optimize(trace_once(loaded), loaded.max_length), tmp_path), 1, tmp_path)
    half = to_float16(add_mask(traced.model.clone()))
    return lambda recipe: packed.packed_models({FILE: half}, traced, recipe)


def test_only_an_export_that_asks_for_them_has_packed_graphs(made):
    assert made(Recipe(precisions=("float16",))) == {}
    assert list(made(Recipe(precisions=("float16", "float32"), packed=True))) == [FILE]
    assert Recipe(precisions=("float16",), packed=True).record()["packed"] is True
    assert "packed" not in Recipe(precisions=("float16",)).record()
    with pytest.raises(InputError, match="--packed needs the float16 precision"):
        Recipe(precisions=("int8", "float32"), packed=True)


def test_packed_rows_that_get_other_logits_are_refused(made, monkeypatch):
    pack = packed.pack

    def forgetful(model, *, fuses):
        model = pack(model, fuses=fuses)
        for node in model.graph:
            if node.op_type == "MultiHeadAttention":
                node.replace_input_with(4, None)
        return model

    monkeypatch.setattr(packed, "pack", forgetful)
    with pytest.raises(ExportError, match=r"^with padding, logits of Bert\w+ change by .* leave --packed out$"):
        made(Recipe(precisions=("float16",), packed=True))


@pytest.mark.slow
def test_packed_graphs_are_kept_to_the_bit(masked_artifact, deeper, tmp_path):
    terms = {"precisions": ("float16", "float32"), "bounds": Bounds(worst_tau=0.75)}
    out = convert(str(deeper), tmp_path / "kept", Recipe(**terms, packed=True), keep=str(masked_artifact))
    for name in (FILE, "model.float16.packed.onnx"):
        assert (out / name).read_bytes() == (masked_artifact / name).read_bytes()
    with pytest.raises(ExportError, match=r"has the packed graphs \[True, False\], but this export has \[False, False\]; expected"):
        convert(str(deeper), tmp_path / "other", Recipe(**terms), keep=str(masked_artifact))
