"""The gate's refusal names what an export can still try, and nothing that was tried or cannot help."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from resift.artifact.agreement import Agreement, Bounds
from resift.artifact.certificate import Certificate, FirstLookRecall
from resift.artifact.coverage import ClassAgreement, PartAgreement
from resift.artifact.folder import Artifact
from resift.artifact.signature import Split
from resift.artifact.variant import DocumentGraph
from resift.errors import MESSAGE_LIMIT
from resift_export.build.gate import faults_of, scored_by, ways_out
from resift_export.build.graph_files import frozen_file
from resift_export.checkpoint import load as checkpoint
from resift_export.recipe import VNNI_FILE, Recipe, file_of

FILE = Path("own.jsonl")
INT8, FLOAT32, LOOK = file_of("int8"), file_of("float32"), "first-look.int8.onnx"
FROZEN = frozen_file(INT8)
GOOD = Agreement(overlap=1.0, tau=1.0, worst_tau=1.0, error=0.0, largest_error=0.0, ndcg=None, checkpoint_ndcg=None)


@pytest.mark.parametrize(
    ("file", "recipe", "is_kept", "options"),
    [
        (INT8, Recipe(), False, ["--search", "--precision", "--calibration", "--gate", "--force"]),
        (INT8, Recipe(calibration=FILE, gate=FILE), False, ["--search", "--precision", "--force"]),
        (INT8, Recipe(search=9), False, ["--precision", "--calibration", "--gate", "--force", "--search"]),
        (INT8, Recipe(), True, ["--keep", "--precision", "--gate", "--force"]),
        (VNNI_FILE, Recipe(vnni=True), False, ["--search", "--vnni", "--precision", "--calibration", "--gate", "--force"]),
        (FLOAT32, Recipe(precisions=("float32",)), False, ["--tracer", "--gate", "--force"]),
        (FLOAT32, Recipe(precisions=("float32",), gate=FILE), True, ["--keep", "--force"]),
        (FLOAT32, Recipe(precisions=("float32",), tracer="optimum", gate=FILE), False, ["--force"]),
        (
            FROZEN,
            Recipe(freeze=3, gate=FILE),
            False,
            ["--freeze", "--freeze", "--search", "--precision", "--calibration", "--force"],
        ),
        (FROZEN, Recipe(freeze="auto", calibration=FILE), False, ["--freeze", "--search", "--precision", "--gate", "--force"]),
    ],
)
def test_the_ways_out_that_are_left(file, recipe, is_kept, options):
    assert re.findall(r"--[a-z-]+", ways_out(file, recipe, "ranking", is_kept=is_kept)) == options


def options_of(**certified):
    """The options that each fault of a certificate names, of an export with --freeze 3 and a first look without a student."""
    certificate = Certificate(bounds=Bounds(), pools=[], **{"agreement": {}, **certified})
    faults = faults_of(certificate, SimpleNamespace(id="a/model"), None, Recipe(freeze=3, gate=FILE, calibration=FILE))
    return [(str(fault).partition(" ")[0], re.findall(r"--[a-z-]+", str(fault))) for fault in faults]


def test_a_search_is_no_way_out_for_a_length_class_or_generated_pairs_by_which_it_does_not_choose():
    certified = {"agreement": {INT8: GOOD}, "classes": {INT8: [ClassAgreement(up_to=512, pairs=100, error=1.0, off=1.0)]}}
    assert options_of(**certified) == [("a/model", ["--precision", "--force"])]
    certified = {"agreement": {INT8: GOOD}, "generated": {INT8: PartAgreement(pairs=100, error=1.0, off=1.0)}}
    assert options_of(**certified) == [("a/model", ["--precision", "--force"])]


def test_a_first_look_that_is_refused_is_left_out_by_the_option_that_brought_it():
    lost = [FirstLookRecall(look=0.5, kept=0.0)]
    assert options_of(first_looks={LOOK: lost}) == [("the", ["--keep", "--first-look", "--force"])]
    assert options_of(first_looks={FROZEN: lost}) == [("a/model", ["--freeze", "--freeze", "--force"])]
    assert re.findall(r"--[a-z-]+", ways_out(LOOK, Recipe(gate=FILE), "recall", is_kept=True, has_student=True)) == [
        "--first-look",
        "--force",
    ]


def test_a_refusal_by_every_bound_still_names_them(source, toolchain):
    nothing = Agreement(overlap=0.0, tau=-1.0, worst_tau=-1.0, error=1.0, largest_error=9.0, ndcg=0.0, checkpoint_ndcg=1.0)
    certificate = Certificate(bounds=Bounds(), agreement={INT8: nothing}, pools=[])
    [fault] = faults_of(certificate, checkpoint.load(source), None, Recipe())
    assert "does not rank like its checkpoint: mean top-10 overlap is 0.0000; expected at least 0.95" in str(fault)
    assert str(fault).endswith(ways_out(INT8, Recipe(), "ranking", is_kept=False))
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
