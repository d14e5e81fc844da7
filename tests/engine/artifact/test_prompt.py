"""The prompt of an artifact: put before every query, counted, and as safe as the rest of the manifest."""

from __future__ import annotations

import json

import pytest

from resift import ArtifactError, InputError, Reranker, Settings
from resift.artifact.folder import Artifact
from resift.encoding.tokenizer import PairTokenizer
from tests.conftest import edit
from tests.support import tiny

PROMPT = "find what answers this question: "
QUERY = "how do tides work"
DOCUMENTS = tiny.texts()[1:12:2]


def with_prompt(folder, prompt):
    edit(folder, lambda manifest: manifest["pair"].__setitem__("prompt", prompt))
    return folder


def test_a_prompt_is_put_before_every_query(copy, reranker):
    with Reranker.load(with_prompt(copy, PROMPT)) as prompted:
        found = prompted.logits(QUERY, DOCUMENTS).tolist()
        ranking = prompted.rerank(QUERY, DOCUMENTS)
        scores = prompted.score_pairs([(QUERY, document) for document in DOCUMENTS]).tolist()
    assert found == reranker.logits(PROMPT + QUERY, DOCUMENTS).tolist()
    assert scores == reranker.score(PROMPT + QUERY, DOCUMENTS).tolist()
    assert found != reranker.logits(QUERY, DOCUMENTS).tolist()
    assert [result.document for result in ranking] == [found_.document for found_ in reranker.rerank(PROMPT + QUERY, DOCUMENTS)]


def test_an_artifact_without_a_prompt_says_nothing_of_one(artifact):
    assert "prompt" not in json.loads((artifact / "manifest.json").read_text())["pair"]
    assert Artifact.open(artifact).manifest.pair.prompt == ""


def test_a_long_query_loses_its_end_and_keeps_the_prompt():
    source = tiny.backend("bert").to_str().encode()
    plain, prompted = (PairTokenizer(source, 40, prompt=prompt) for prompt in ("", PROMPT))
    query = "tides rise and fall " * 50
    for tokenizer, text in ((plain, PROMPT + query), (prompted, query)):
        found = tokenizer.encode(text, ["a document"])
        assert found.row(0)[0].tolist() == plain.encode(PROMPT + query, ["a document"]).row(0)[0].tolist()
        assert found.query_tokens_cut == plain.encode(PROMPT + query, []).query_tokens_cut > 0


def test_settings_that_leave_no_room_for_the_prompt(copy):
    folder = with_prompt(copy, PROMPT)
    with pytest.raises(InputError, match=r"max_length is 10 tokens, too few for the model's prompt 'find what answers"):
        Reranker.load(folder, settings=Settings(max_length=10))


@pytest.mark.parametrize("prompt", [7, None, ["x"], "x" * 10_001])
def test_a_prompt_that_is_no_text_of_sensible_length(copy, prompt):
    with pytest.raises(ArtifactError, match="prompt"):
        Reranker.load(with_prompt(copy, prompt))


def test_a_hostile_prompt_is_one_clear_error(copy):
    with pytest.raises(InputError, match="max_length is 192 tokens, too few for the model's prompt"):
        Reranker.load(with_prompt(copy, "find " * 1000))
