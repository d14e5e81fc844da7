"""Documents are retrieved by words and by vectors, and their rankings become one."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from resift import ExtraError, InputError
from resift.retrieval.bm25 import Bm25
from resift.retrieval.embedder import embed
from resift.retrieval.fusion import fuse
from resift.retrieval.vectors import Vectors
from resift.retrieval.words import LONG_WORD


def test_stems_find_plurals_which_words_do_not():
    texts = ["Tides rise.", "Bread rises."]
    assert Bm25(texts).best("tide", 5).tolist() == []
    assert Bm25(texts, stem=True).best("tide", 5).tolist() == [0]


def test_scripts_without_spaces_are_found_by_their_characters():
    texts = ["月亮引起潮汐。", "面包发酵。"]
    assert Bm25(texts).best("潮汐", 5).tolist() == []
    assert Bm25(texts, pattern=LONG_WORD).best("潮汐", 5).tolist() == [0]


def test_vectors_rank_by_cosine_and_equal_ones_by_place():
    documents = np.array([[1, 0], [0, 3], [9, 9], [0, 1], [0, 0]], np.float16)
    queries = np.array([[0, 2], [5, 0]], np.float64)
    vectors = Vectors(documents, queries)
    assert [found.tolist() for found in vectors.best([0, 1], 3)] == [[1, 3, 2], [0, 2, 1]]
    assert [found.tolist() for found in vectors.best([1], 99)] == [[0, 2, 1, 3, 4]]


@pytest.mark.parametrize("depth", [1, 7, 20, 59, 60])
def test_of_equal_cosines_the_first_places_are_found_at_any_depth(depth):
    documents = np.eye(4)[np.random.default_rng(0).integers(0, 4, 60)]
    cosines = documents @ [4, 3, 2, 1]
    [found] = Vectors(documents, np.array([[4.0, 3, 2, 1]])).best([0], depth)
    assert found.tolist() == np.argsort(-cosines, kind="stable")[:depth].tolist()


def test_vectors_are_read_from_files_and_checked(tmp_path):
    def written(name, array):
        np.save(tmp_path / name, array)
        return tmp_path / name

    good = written("good.npy", np.ones((3, 2), np.float32))
    vectors = Vectors.read(good, good)
    vectors.check(3, 3)
    with pytest.raises(InputError, match=r"3 vectors for 4 queries"):
        vectors.check(3, 4)
    faults = {
        "integers.npy": (np.ones((3, 2), np.int64), "int64 of shape .* expected floats"),
        "flat.npy": (np.ones(3), "expected floats, a row for each text"),
        "wide.npy": (np.ones((3, 4)), "2 numbers in .*good.npy and 4 in .*wide.npy"),
        "nan.npy": (np.full((3, 2), np.nan), "not finite"),
        "pickled.npy": (np.array([{}, []], object), "cannot be read as vectors"),
    }
    for name, (array, message) in faults.items():
        with pytest.raises(InputError, match=message):
            Vectors.read(good, written(name, array))
    np.savez(tmp_path / "archive.npz", np.ones((3, 2)))
    (tmp_path / "text.npy").write_text("1 2\n")
    for name, message in {"archive.npz": "an archive", "text.npy": "cannot be read", "none.npy": "No such file"}.items():
        with pytest.raises(InputError, match=message):
            Vectors.read(tmp_path / name, good)


def test_rankings_are_fused_by_reciprocal_ranks():
    assert fuse([[3, 1, 2]], 2) == [3, 1]
    assert fuse([[1, 2, 3], [3, 4]], 9) == [3, 1, 2, 4]  # 3: 1/63 + 1/61; 2 and 4: 1/62 each
    assert fuse([[1, 2, 3], [4, 1]], 9) == [1, 4, 2, 3]


def test_an_embedder_needs_sentence_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ExtraError, match="pip install sentence-transformers"):
        embed("model", [], [])
