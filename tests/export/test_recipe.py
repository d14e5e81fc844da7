"""Recipe: the built-in texts, the user's own, and what the manifest records of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from resift.errors import InputError, ResiftError
from resift_export.recipe import ATTACHED_LIMIT, LEAST_GATE_POOLS, MIN_CALIBRATION_PAIRS, MIN_GATE_DOCUMENTS, Recipe


def lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pairs(count):
    return [{"query": f"query {number}", "document": f"document {number}"} for number in range(count)]


def pools(count, documents=MIN_GATE_DOCUMENTS):
    return [
        {"query": f"query {pool}", "documents": [f"document {pool} {row}" for row in range(documents)]} for pool in range(count)
    ]


def test_built_in_calibration_is_broad():
    found = Recipe().calibration_pairs()
    assert len(found) >= 100
    assert len(set(found)) == len(found)
    assert all(pair.query.strip() and pair.document.strip() for pair in found)
    words = np.array([len(pair.document.split()) for pair in found])
    assert words.min() <= 15
    assert words.max() >= 250
    assert len(np.unique(words)) > len(words) / 4


def test_built_in_gate_can_tell_rankings_apart():
    found = Recipe().gate_pools()
    assert len(found) >= LEAST_GATE_POOLS
    assert len({pool.qid for pool in found}) == len({pool.query for pool in found}) == len(found)
    for pool in found:
        assert len(pool.documents) >= MIN_GATE_DOCUMENTS
        assert len(set(pool.documents)) == len(pool.documents)
        assert pool.labels is not None
        assert len(pool.labels) == len(pool.documents)
        assert min(pool.labels) == 0 < max(pool.labels)


def test_gate_shares_no_text_with_calibration():
    recipe = Recipe()
    calibration = {" ".join(text.lower().split()) for pair in recipe.calibration_pairs() for text in (pair.query, pair.document)}
    gate = {" ".join(text.lower().split()) for pool in recipe.gate_pools() for text in (pool.query, *pool.documents)}
    assert len(calibration) > 100
    assert len(gate) > 300
    assert not calibration & gate


def test_an_activation_is_recorded_if_it_is_requested():
    assert Recipe(activation="softmax").record()["activation"] == "softmax"
    assert "activation" not in Recipe().record()
    with pytest.raises(InputError, match="activation is 'gelu'; expected one of identity, sigmoid, softmax, or None"):
        Recipe(activation="gelu")


def test_own_calibration_file(tmp_path):
    path = lines(tmp_path / "own.jsonl", ["", *pairs(MIN_CALIBRATION_PAIRS)])
    found = Recipe(calibration=path).calibration_pairs()
    assert [(pair.query, pair.document) for pair in found] == [tuple(row.values()) for row in pairs(MIN_CALIBRATION_PAIRS)]


@pytest.mark.parametrize(
    "bad", ["not json", '{"query": "q"}', '{"query": "q", "document": 3}', '{"query": "q", "document": "d", "label": 1}', "[]"]
)
def test_bad_calibration_line_is_named(tmp_path, bad):
    rows = pairs(40)
    path = lines(tmp_path / "own.jsonl", ["", *rows[:5], bad, *rows[5:]])
    with pytest.raises(InputError, match=r"own\.jsonl, line 7: .*expected (\{\"query\"|one JSON object|a JSON object)"):
        Recipe(calibration=path).calibration_pairs()


def test_a_calibration_line_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "own.jsonl").write_bytes(b'{"query": "a", "document": "b"}\n{"query": "\xff", "document": "b"}\n')
    with pytest.raises(InputError, match=r"own\.jsonl, line 2: not JSON: "):
        Recipe(calibration=tmp_path / "own.jsonl").calibration_pairs()


def test_too_few_calibration_pairs(tmp_path):
    path = lines(tmp_path / "own.jsonl", pairs(MIN_CALIBRATION_PAIRS - 1))
    with pytest.raises(InputError, match=r"own\.jsonl has 31 pairs; expected 32 or more"):
        Recipe(calibration=path).calibration_pairs()


def test_missing_files(tmp_path):
    recipe = Recipe(calibration=tmp_path / "none.jsonl", gate=tmp_path / "nothing.jsonl", attached=[tmp_path / "NOTICE"])
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        recipe.calibration_pairs()
    with pytest.raises(InputError, match=r"nothing\.jsonl cannot be read"):
        recipe.gate_pools()
    with pytest.raises(InputError, match=r"cannot attach .*NOTICE: .*No such file"):
        recipe.attached_files()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("option", ["calibration", "gate"])
def test_texts_that_can_be_read_only_once_are_refused_as_their_hash_would_be_that_of_nothing(tmp_path, option):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for once in (path, Path("-")):
        with pytest.raises(InputError, match="is not a regular file, but its texts are read twice; save them in one"):
            Recipe(**{option: once}).check_files()
    (tmp_path / "own.jsonl").touch()
    for checked_later in (tmp_path / "own.jsonl", tmp_path / "none.jsonl", Path("a" * 300)):
        Recipe(**{option: checked_later}).check_files()


def test_an_attached_file_without_an_end(tmp_path):
    with (tmp_path / "NOTICE").open("wb") as file:
        file.truncate(ATTACHED_LIMIT + 1)
    with pytest.raises(InputError, match=r"cannot attach .*NOTICE: it has more than 67108864 bytes"):
        Recipe(attached=[tmp_path / "NOTICE"]).attached_files()


def test_own_gate_file(tmp_path):
    named = [{**pool, "qid": f"own-{number}"} for number, pool in enumerate(pools(2))]
    path = tmp_path / "gate.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in [*named, *pools(28), *pools(3, documents=1)]).encode()))
    found = Recipe(gate=path).gate_pools()
    assert [pool.qid for pool in found] == ["own-0", "own-1", *(str(number) for number in range(3, 34))]
    assert found[0].documents == named[0]["documents"]
    assert {pool.labels for pool in found} == {None}


def test_labels_count_only_where_every_document_has_one(tmp_path):
    def graded(labels):
        fields = [{} if label is None else {"label": label} for label in labels]
        return {"query": "q", "candidates": [{"text": f"text {row}", **field} for row, field in enumerate(fields)]}

    whole, part, negative, text = [*range(10)], [*range(9), None], [*range(9), -1], [*range(9), "3"]
    rows = [graded(labels) for labels in (whole, part, negative, text)]
    found = Recipe(gate=lines(tmp_path / "gate.jsonl", [*rows, *pools(30)])).gate_pools()
    assert [pool.labels for pool in found[:4]] == [whole, None, None, None]


@pytest.mark.parametrize("label", [2**63, 10**400], ids=["2**63", "10**400"])
def test_a_gate_label_beyond_any_grade_is_refused(tmp_path, label):
    rows = [{"query": "q", "candidates": [{"text": f"text {row}", "label": label} for row in range(10)]}, *pools(30)]
    with pytest.raises(
        InputError, match=r"gate\.jsonl, pool 1: the label is \d{19,80}; expected a relevance grade of at most 1000000"
    ):
        Recipe(gate=lines(tmp_path / "gate.jsonl", rows)).gate_pools()


def test_bad_gate_line_is_named(tmp_path):
    path = lines(tmp_path / "gate.jsonl", [*pools(3), '{"query": "q", "documents": "one text"}', *pools(30)])
    with pytest.raises(InputError, match=r"gate\.jsonl, line 4: "):
        Recipe(gate=path).gate_pools()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pools(LEAST_GATE_POOLS - 1), r"29 pools of 10 documents or more \(of 29 in all\)"),
        (pools(LEAST_GATE_POOLS, documents=MIN_GATE_DOCUMENTS - 1), r"0 pools of 10 documents or more \(of 30 in all\)"),
        ([*pools(29), *pools(20, documents=9)], r"29 pools of 10 documents or more \(of 49 in all\)"),
        ([], r"0 pools of 10 documents or more \(of 0 in all\)"),
    ],
)
def test_gate_too_small_to_tell_anything(tmp_path, rows, message):
    with pytest.raises(InputError, match=rf"gate\.jsonl has {message}; expected at least 30"):
        Recipe(gate=lines(tmp_path / "gate.jsonl", rows)).gate_pools()


@pytest.mark.parametrize("precisions", [("int4",), ("int8", "bfloat16"), ("",)])
def test_unknown_precision(precisions):
    with pytest.raises(InputError, match=rf"precision is '{precisions[-1]}'; expected one or more of int8, float16, float32"):
        Recipe(precisions=precisions)


def test_no_precision_at_all():
    with pytest.raises(InputError, match="precision"):
        Recipe(precisions=())


def test_vnni_without_int8():
    with pytest.raises(InputError, match="add int8 to --precision, or leave out --vnni"):
        Recipe(precisions=("float32",), vnni=True)


def test_search_without_int8():
    with pytest.raises(InputError, match="add int8 to --precision, or leave out --search"):
        Recipe(precisions=("float32",), search=100)


@pytest.mark.parametrize("evaluations", [2, 0, -1])
def test_search_that_may_not_try_anything(evaluations):
    with pytest.raises(InputError, match=f"--search allows {evaluations} evaluations; expected 3 or more"):
        Recipe(search=evaluations)


def test_what_is_recorded_only_where_it_is_asked_for(tmp_path):
    gate = tmp_path / "gate.jsonl"
    gate.write_text("")
    found = Recipe(gate=gate, no_texts=True, origin="trained by us").record()
    assert (found["no_texts"], found["origin"]) == (True, "trained by us")
    assert Recipe().record().keys().isdisjoint({"no_texts", "origin"})


def test_record_of_a_search():
    assert Recipe(search=7).record() == {**Recipe().record(), "search": 7}


def test_variants_are_best_first_whatever_the_order_asked_for():
    found = Recipe(precisions=("float32", "int8"), vnni=True).variants()
    assert [(variant.file, variant.precision, variant.instruction_sets) for variant in found] == [
        ("model.int8-vnni.onnx", "int8", ["avx512_vnni"]),
        ("model.int8-vnni.onnx", "int8", ["avx_vnni"]),
        ("model.int8-vnni.onnx", "int8", ["asimd"]),
        ("model.int8.onnx", "int8", []),
        ("model.float32.onnx", "float32", []),
    ]
    assert [variant.file for variant in Recipe().variants()] == ["model.int8.onnx"]


def test_unknown_tracer():
    with pytest.raises(InputError, match="tracer"):
        Recipe(tracer="magic")


def test_attached_files_by_name(tmp_path):
    (tmp_path / "LICENSE").write_bytes(b"\xff terms")
    (tmp_path / "README.md").write_text("# About")
    found = Recipe(attached=[tmp_path / "LICENSE", tmp_path / "README.md"]).attached_files()
    assert found == {"LICENSE": b"\xff terms", "README.md": b"# About"}
    assert Recipe().attached_files() == {}


def test_attached_files_of_one_name_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "NOTICE").write_text(name)
    with pytest.raises(ResiftError, match="NOTICE"):
        Recipe(attached=[tmp_path / "a" / "NOTICE", tmp_path / "b" / "NOTICE"]).attached_files()


def test_record_of_built_in_texts():
    data = files("resift_export") / "data"
    hashes = {
        name: hashlib.sha256((data / f"{name}.jsonl").read_bytes()).hexdigest()
        for name in ("calibration", "gate", "short_calibration", "short_gate")
    }
    assert Recipe(precisions=("float32", "int8"), tracer="optimum").record() == {
        "precisions": ["float32", "int8"],
        "vnni": False,
        "tracer": "optimum",
        "calibration": "built-in calibration.jsonl",
        "calibration_sha256": hashes["calibration"],
        "gate": "built-in gate.jsonl",
        "gate_sha256": hashes["gate"],
        "short_calibration_sha256": hashes["short_calibration"],
        "short_gate_sha256": hashes["short_gate"],
    }


@pytest.mark.parametrize("name", ["calibration", "gate"])
def test_record_changes_with_the_file(tmp_path, name):
    path = lines(tmp_path / "secret-place.jsonl", pairs(40))
    recipe = Recipe(**{name: path})
    before = recipe.record()
    assert before == recipe.record()
    assert before[name] == "secret-place.jsonl"
    assert before[f"{name}_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(path.read_text() + "\n")
    changed = {key for key, value in recipe.record().items() if value != before[key]}
    assert changed == {f"{name}_sha256"}
