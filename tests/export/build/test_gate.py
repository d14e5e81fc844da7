"""The gate's refusal names what an export can still try, and nothing that was tried or cannot help."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from resift.artifact.agreement import Agreement, Bounds
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.artifact.signature import Split
from resift.artifact.variant import DocumentGraph
from resift.errors import MESSAGE_LIMIT
from resift_export.build.gate import faults_of, scored_by, ways_out
from resift_export.checkpoint import load as checkpoint
from resift_export.recipe import VNNI_FILE, Recipe, file_of

FILE = Path("own.jsonl")
INT8, FLOAT32 = file_of("int8"), file_of("float32")


@pytest.mark.parametrize(
    ("file", "recipe", "is_kept", "options"),
    [
        (INT8, Recipe(), False, ["--search", "--precision", "--calibration", "--gate", "--force"]),
        (INT8, Recipe(calibration=FILE, gate=FILE), False, ["--search", "--precision", "--force"]),
        (INT8, Recipe(search=9), False, ["--precision", "--calibration", "--gate", "--force", "--search"]),
        (INT8, Recipe(), True, ["--keep", "--precision", "--gate", "--force"]),
        (VNNI_FILE, Recipe(vnni=True), False, ["--search", "--vnni", "--precision", "--calibration", "--gate", "--force"]),
        (FLOAT32, Recipe(precisions=("float32",)), False, ["--tracer", "--gate", "--force"]),
        (FLOAT32, Recipe(precisions=("float32",), tracer="optimum", gate=FILE), False, ["--force"]),
        ("first-look.int8.onnx", Recipe(gate=FILE), False, ["--first-look", "--force"]),
    ],
)
def test_the_ways_out_that_are_left(file, recipe, is_kept, options):
    assert re.findall(r"--[a-z-]+", ways_out(file, recipe, is_kept=is_kept)) == options


def test_a_refusal_by_every_bound_still_names_them(source, toolchain):
    nothing = Agreement(overlap=0.0, tau=-1.0, worst_tau=-1.0, error=1.0, largest_error=9.0, ndcg=0.0, checkpoint_ndcg=1.0)
    certificate = Certificate(bounds=Bounds(), agreement={INT8: nothing}, pools=[])
    [fault] = faults_of(certificate, checkpoint.load(source), None, Recipe())
    assert "does not rank like its checkpoint: mean top-10 overlap is 0.0000; expected at least 0.95" in str(fault)
    assert str(fault).endswith(ways_out(INT8, Recipe(), is_kept=False))
    assert len(str(fault)) < MESSAGE_LIMIT


def test_a_split_look_is_measured_again_beside_another_full_graph_which_scores_its_long_queries():
    manifest = Artifact.find(None).manifest
    full, look = manifest.graphs
    split = Split(layers=2, query_tokens=24, document_tokens=256, multiple=16, size=384, query_operations=1, reading_operations=1)
    [variant] = look.variants
    variant = msgspec.structs.replace(variant, weights=None, document=DocumentGraph(file="document.onnx"))
    halves = msgspec.structs.replace(look, split=split, variants=[variant])
    file = full.variants[0].file
    changed_entry = msgspec.structs.replace(manifest.files[file], sha256="0" * 64)
    entries = {**manifest.files, "document.onnx": manifest.files[variant.file]}
    one = msgspec.structs.replace(manifest, graphs=[full, halves], files=entries)
    other = msgspec.structs.replace(one, files={**entries, file: changed_entry})
    assert scored_by(one, halves, variant) == scored_by(one, halves, variant) != scored_by(other, halves, variant)
    alone = msgspec.structs.replace(look, variants=[msgspec.structs.replace(look.variants[0], weights=None)])
    assert scored_by(one, alone, alone.variants[0]) == scored_by(other, alone, alone.variants[0])
