"""How the comparison computes its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from resift import Reranker
from resift.pools.reading import CandidatePool
from resift.pools.source import read_pools
from tests.conftest import REPOSITORY


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import compare

    return compare


def test_percentiles_are_over_all_measurements(compare):
    # One slow measurement of three in a pool: the pool's median hides it, the 95th percentile of all twelve does not.
    seconds = [[0.1, 0.1, 0.9], [0.1, 0.1, 0.9], [0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]
    scores = [np.array([1.0, 0.0])] * len(seconds)
    found = {"a": compare.Measurements(seconds, scores), "b": compare.Measurements(seconds, scores)}
    row = compare.row("a", found, "b", [CandidatePool("q", ["x", "y"], fields=[{}, {}])] * len(seconds))
    assert row["p50_ms"] == pytest.approx(100)
    assert row["p95_ms"] == pytest.approx(1000 * np.percentile(np.ravel(seconds), 95))
    assert row["p95_ms"] > 800


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
    from benchmarks.__main__ import GATE_POOLS

    texts = [text for pool in list(read_pools(GATE_POOLS))[:5] for text in pool.documents]
    pool = CandidatePool("why are there two high tides a day", texts[:40], fields=[{}] * 40)
    with Reranker.load(planned_artifact) as reranker:
        logits = frontier._logits(reranker, pool)
        for plan in ("fast", "balanced", "full", "auto"):
            system = frontier.PlannedSystem("embedded", plan, reranker)
            np.testing.assert_array_equal(system.order(logits)[: frontier.TOP], system.rank(pool.query, pool.documents))
        assert set(system.order(logits).tolist()) == set(range(40))


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


@pytest.mark.slow
def test_the_dry_run_of_cuda_goes_through_every_line(monkeypatch, tmp_path, toolchain, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks.cuda.__main__ import TINY, main

    assert main(["--dry-run", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "cuda.json").read_text())
    assert found["agreement"]["share_of_range"] < 0.01
    assert [(cell["tokens"], cell["candidates"]) for cell in found["cells"]] == [
        (tokens, count) for tokens in TINY.tokens for count in TINY.candidates
    ]
    for cell in found["cells"]:
        assert len(cell["rows"]) == 4
        assert cell["batches"] == 1
    assert "times resift's" in capsys.readouterr().out
