"""How the frontier of time and quality is computed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from resift import Reranker
from resift.artifact.folder import Artifact
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.pools.reading import CandidatePool
from resift.pools.source import read_pools
from tests.conftest import REPOSITORY


def test_a_share_is_of_the_means_and_its_interval_of_queries_drawn_for_both(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import frontier

    best = np.array([1.0, 0.5, 0.5, 1.0])
    shares = frontier.shares([(best / 2, best), (best, best)])
    # A system that reaches half on every query of one file and all on the other has no spread, whatever is drawn.
    np.testing.assert_allclose(shares, 0.75)
    spread = frontier.shares([(np.array([1.0, 0.0, 0.5, 1.0]), best)])
    assert np.percentile(spread, 2.5) < spread.mean() < np.percentile(spread, 97.5)


def test_the_ranking_that_follows_from_logits_is_the_engines(monkeypatch, planned_artifact):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import frontier
    from benchmarks.material import GATE_POOLS

    texts = [text for pool in list(read_pools(GATE_POOLS))[:5] for text in pool.documents]
    pool = CandidatePool("why are there two high tides a day", texts[:40], fields=[{}] * 40)
    with Reranker.load(planned_artifact) as reranker:
        logits = frontier._logits(reranker, pool)
        for plan in ("fast", "balanced", "full", "auto"):
            system = frontier.PlannedSystem("embedded", plan, reranker)
            np.testing.assert_array_equal(system.order(logits)[: frontier.TOP], system.rank(pool.query, pool.documents))
        assert set(system.order(logits).tolist()) == set(range(40))


def test_a_plan_with_a_split_graph_is_measured_with_new_and_with_prepared_documents(monkeypatch, split_artifact, tmp_path):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import planned_systems
    from benchmarks.material import GATE_POOLS

    pools = [CandidatePool("how do tides work", pool.documents) for pool in list(read_pools(GATE_POOLS))[:2]]
    reranker = planned_systems.load(str(split_artifact), 1, "int8")
    systems = planned_systems.systems_of("tiny", reranker, planned_systems.prepare(reranker, pools, tmp_path / "store"))
    assert [(system.plan, system.documents) for system in systems[:2]] == [("first-look", "new"), ("first-look", "prepared")]
    assert [system.documents for system in systems if system.plan == "full"] == ["-"]
    found = [[each.reranker.rerank(pool.query, pool.documents, plan=each.plan) for pool in pools] for each in systems[:2]]
    assert found[0] == found[1]
    assert [[ranking.states for ranking in rankings] for rankings in found] == [[(0, 0, 10)] * 2, [(10, 0, 0)] * 2]
    assert systems[0].key == systems[1].key
    for system in systems:
        system.reranker.close()


def test_the_share_of_pairs_that_are_off_is_over_pairs_and_its_interval_over_pools(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks.certificate import PoolAgreement, figures

    bad, good = PoolAgreement(0.5, 0.6, np.array([2.0] * 2)), PoolAgreement(1.0, 1.0, np.array([0.1] * 8))
    found = figures([bad, good])
    assert found["off"] == [pytest.approx(0.2), 0, 1]  # 2 of 10 pairs; pools drawn twice
    assert found["tau"] == [pytest.approx(0.75), 0.5, 1]
    assert found["top 10"][0] == pytest.approx(0.8)
    assert found["p99"][0] == pytest.approx(2.0)
    assert figures([bad, good], less=[bad, good]) == {key: [0, 0, 0] for key in found}
    assert figures([good, good], less=[bad, good])["off"] == [pytest.approx(-0.2), -1, 0]
    assert figures([]) == {}


def test_each_length_class_has_pools_of_its_own_length(monkeypatch, artifact):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import certificate
    from benchmarks.material import GATE_POOLS

    monkeypatch.setattr(certificate, "GENERATED", 1000)
    tokenizer = open_tokenizer(Artifact.open(artifact))
    classes = certificate.pools_by_class([GATE_POOLS], tokenizer, 192, 60)
    assert list(classes) == [8, 16, 32, 64, 128, 192]
    for (end, pools), low in zip(classes.items(), (0, 8, 16, 32, 64, 128), strict=True):
        lengths = [tokenizer.encode(pool.query, pool.documents).lengths for pool in pools]
        assert all(certificate.LEAST <= len(each) <= certificate.MOST for each in lengths)
        assert low < np.concatenate(lengths).min() <= np.concatenate(lengths).max() <= end
        assert 60 <= sum(map(len, lengths)) < 60 + certificate.MOST or end in {8, 192}
    assert any(pool.qid.startswith("generated") for pool in classes[16])
    assert any(pool.qid.endswith("cut") for pool in classes[64])


@pytest.mark.usefixtures("toolchain")
def test_an_artifact_is_compared_with_its_checkpoint_and_with_another(monkeypatch, artifact, source, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import certificate
    from benchmarks.material import GATE_POOLS

    monkeypatch.setattr(certificate, "GENERATED", 500)
    options = ["--pairs", "30", "--pools", str(GATE_POOLS), "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr("sys.argv", ["certificate", str(artifact), source, "--against", str(artifact), *options])
    certificate.main()
    assert capsys.readouterr().out.count("| 16 | ") == 3
    tables = json.loads((tmp_path / "found.json").read_text())
    figures, differences = tables[str(artifact)], tables["the second less the first"]
    assert 0.7 < figures["32"]["tau"][0] < 1
    assert 0 < figures["32"]["p99"][0] < 2
    assert differences == {end: {key: [0, 0, 0] for key in row} for end, row in figures.items()}


@pytest.mark.usefixtures("toolchain")
def test_noise_on_the_weights_moves_the_logits_and_does_not_add_up(monkeypatch, source, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import fragility

    monkeypatch.setattr("sys.argv", ["fragility", source, "--noise", "0.2", "0.01", "0", "--pools", "2"])
    fragility.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["20.0%", "1.0%", "0.0%"]
    much, little, none = (float(row[3].rstrip("%")) for row in rows)
    assert much > little > none == 0
    assert rows[2][1:3] == ["1.0000", "1.0000"]


@pytest.fixture
def material(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks.cuda import material

    return material


def test_files_come_back_from_their_parts(material, monkeypatch, tmp_path):
    monkeypatch.setattr(material, "LARGEST", 10)
    folder, parts, joined = (tmp_path / name for name in ("folder", "parts", "joined"))
    contents = {"empty": b"", "small": b"0123456789", "inner/large": bytes(range(35))}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    parts.mkdir()
    material.split(folder, parts)
    assert max(path.stat().st_size for path in parts.iterdir() if path.name != material.INDEX) == 10
    material.join(parts, joined)
    assert {name: (joined / name).read_bytes() for name in contents} == contents
    victim = next(path for path in parts.iterdir() if path.stat().st_size == 5)
    victim.write_bytes(b"other")
    with pytest.raises(SystemExit, match=r"inner/large in .* is damaged"):
        material.join(parts, joined)
    victim.unlink()
    with pytest.raises(SystemExit, match=rf"lacks {victim.name}, parts of inner/large"):
        material.join(parts, joined)


def test_matrices_of_the_checkpoint_are_left_out_of_files_and_put_back(material, monkeypatch, tmp_path):
    monkeypatch.setattr(material, "SMALLEST_CUT", 30)
    random = np.random.default_rng(2)
    weights = {"first": random.normal(size=(5, 7)), "second_T": random.normal(size=(6, 4)), "absent": random.normal(size=(8, 8))}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    first, second = (array.astype(np.float16) for array in (weights["first"], weights["second_T"]))
    content = b"head" + first.T.tobytes() + b"middle" + second.tobytes() + first.T.tobytes() + b"end"
    cuts = material.find_cuts(content, weights)
    assert [cut.matrix for cut in cuts] == ["first_T", "second_T"]
    rest = material.without(content, cuts)
    assert rest == b"headmiddle" + first.T.tobytes() + b"end"
    assert material.filled(rest, cuts, weights) == content
    assert material.find_cuts(b"nothing", weights) == []


def test_rounded_weights_are_within_half_a_step(material, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    random = np.random.default_rng(1)
    weights = {"matrix": random.normal(size=(5, 7)), "zero": np.zeros((2, 3)), "vector": random.normal(size=4)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    safetensors.save_file(weights, tmp_path / "before.safetensors")
    material.round_weights(tmp_path / "before.safetensors", tmp_path / "rounded.npz")
    material.restore_weights(tmp_path / "rounded.npz", tmp_path / "after.safetensors")
    found = safetensors.load_file(tmp_path / "after.safetensors")
    assert found.keys() == weights.keys()
    steps = np.abs(weights["matrix"]).max(1, keepdims=True) / 127
    assert (np.abs(found["matrix"] - weights["matrix"]) <= 0.5001 * steps).all()
    np.testing.assert_array_equal(found["zero"], 0)
    np.testing.assert_array_equal(found["vector"], weights["vector"])


def figures_of_cuda(**changes):
    rows = [{"system": "resift float16", "p50_ms": 9.5, "times_slower": 1.0}]
    rows.append({"system": "sentence-transformers 9.9 float16", "p50_ms": 18.0, "times_slower": 1.9})
    cell = {"tokens": 95, "mixed": False, "candidates": 50, "rows": rows}
    mean = {"resift float16": 0.7, "sentence-transformers 9.9 float32": 0.7021}
    ndcg = {"dl19.jsonl.gz": {"pools": 43, "of": 43, "mean": mean}}
    return {"agreement": {"fault": None}, "is_packed": True, "cells": [cell], "ndcg": ndcg, "left_out": {}} | changes


def test_claims_of_cuda_hold_or_not_by_the_figures(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks.cuda.claims import claims

    assert claims(figures_of_cuda()) == [
        "the certificate's bounds: hold",
        "padding is left out: yes",
        "nDCG@10 on 43 of 43 pools of dl19.jsonl.gz within 0.002 of float32: does not hold, 0.7000 and 0.7021",
        "50 candidates of 95 tokens within 10 ms: holds, 9.50 ms",
        "50 candidates of 95 tokens, 2 times as fast as sentence-transformers 9.9 float16: does not hold, 1.90 times",
    ]
    nothing = claims(
        figures_of_cuda(cells=[{"tokens": 95, "mixed": False, "candidates": 50}], ndcg={}, left_out={"O4": "no memory"})
    )
    assert nothing[2:] == [
        "nDCG@10 within 0.002 of float32: not measured",
        "times of 50 candidates: not measured",
        "O4: left out, no memory",
    ]


def test_a_rival_that_fails_on_the_gpu_is_left_out(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks.cuda.contenders import opened

    class Rival:
        def score(self, query, documents):
            return np.zeros(len(documents))

    def fail():
        raise RuntimeError("no kernel\nand more")

    left_out = {}
    assert len(opened({"good": Rival, "bad": fail}, left_out)) == 1
    assert left_out == {"bad": "RuntimeError: no kernel"}
    assert "bad is left out: RuntimeError: no kernel" in capsys.readouterr().out


@pytest.mark.slow
def test_the_dry_run_of_cuda_goes_through_every_line(monkeypatch, tmp_path, toolchain, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks.cuda.__main__ import TINY, main

    assert main(["--dry-run", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "cuda.json").read_text())
    assert found["agreement"]["share_of_range"] < 0.01
    assert found["left_out"] == {}
    assert [(cell["tokens"], cell["mixed"], cell["candidates"]) for cell in found["cells"]] == [
        (tokens, is_mixed, count)
        for count in TINY.candidates
        for tokens, is_mixed in [*((tokens, False) for tokens in TINY.tokens), (TINY.mixed, True)]
    ]
    for cell in found["cells"]:
        assert len(cell["rows"]) == 5
        assert cell["batches"] >= 1
    [quality] = found["ndcg"].values()
    assert quality["pools"] == quality["of"] == 3
    assert len(quality["mean"]) == 6
    assert len(found["claims"]) >= 3
    assert "times resift's" in capsys.readouterr().out
