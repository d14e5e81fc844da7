"""The prompt of an artifact: put before every query, counted, and as safe as the rest of the manifest."""

from __future__ import annotations

import asyncio
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


def test_an_instruction_replaces_the_prompt_in_every_method(copy, reranker):
    pairs, told = [(QUERY, document) for document in DOCUMENTS], "answer this: "
    expected = reranker.logits(told + QUERY, DOCUMENTS).tolist()
    scores = reranker.score(told + QUERY, DOCUMENTS).tolist()

    async def later(prompted):
        return [
            [result.logit for result in sorted(ranking, key=lambda result: result.index)]
            for ranking in (
                await prompted.arerank(QUERY, DOCUMENTS, instruction=told),
                *await prompted.arerank_many([QUERY], [DOCUMENTS], instruction=told),
            )
        ] + [
            prompted.submit_encoded(await prompted.aencode(QUERY, DOCUMENTS, instruction=told)).result().logits.tolist(),
            (await prompted.ascore(QUERY, DOCUMENTS, instruction=told)).tolist(),
            (await prompted.ascore_pairs(pairs, instruction=told)).tolist(),
        ]

    with Reranker.load(with_prompt(copy, PROMPT)) as prompted:
        ranking = prompted.rerank(QUERY, DOCUMENTS, instruction=told)
        assert prompted.rerank_many([QUERY], [DOCUMENTS], instruction=told) == [ranking]
        assert prompted.submit(QUERY, DOCUMENTS, instruction=told).result().logits.tolist() == expected
        assert prompted.logits(QUERY, DOCUMENTS, instruction=told).tolist() == expected
        assert prompted.score(QUERY, DOCUMENTS, instruction=told).tolist() == scores
        assert prompted.score_pairs(pairs, instruction=told).tolist() == scores
        assert asyncio.run(later(prompted)) == [expected, expected, expected, scores, scores]
        assert prompted.logits(QUERY, DOCUMENTS, instruction="").tolist() == reranker.logits(QUERY, DOCUMENTS).tolist()
        assert prompted.logits(QUERY, DOCUMENTS).tolist() == reranker.logits(PROMPT + QUERY, DOCUMENTS).tolist()
    assert [result.logit for result in ranking] == sorted(expected, reverse=True)


def test_an_instruction_is_put_before_the_query_of_a_model_without_a_prompt(reranker):
    expected = reranker.rerank(f"find: {QUERY}", DOCUMENTS, top_k=3)
    assert reranker.rerank(QUERY, DOCUMENTS, 3, instruction="find: ") == expected
    assert reranker.rerank(QUERY, [], instruction="find: ") == reranker.rerank(QUERY, [])


@pytest.mark.parametrize("truncation", ["only_second", "longest_first"])
def test_an_instruction_counts_as_part_of_a_query_that_is_cut(artifact, truncation):
    query, documents = "tides rise and fall " * 100, ["a document", "water " * 300]
    with Reranker.load(artifact, settings=Settings(truncation=truncation)) as loaded:
        found, expected = loaded.rerank(query, documents, instruction=PROMPT), loaded.rerank(PROMPT + query, documents)
    assert found == expected
    assert found.query_tokens_cut > 0


def test_an_instruction_that_cannot_be_used(reranker):
    for call in (reranker.rerank, reranker.submit, reranker.score):
        with pytest.raises(
            InputError, match=r"max_length is 192 tokens, too few for the instruction 'find find .* less text before"
        ):
            call(QUERY, DOCUMENTS, instruction="find " * 1000)
        with pytest.raises(TypeError, match="instruction is list; expected str"):
            call(QUERY, DOCUMENTS, instruction=["find"])
    with pytest.raises(TypeError, match="instruction is bytes"):
        reranker.score_pairs([(QUERY, "text")], instruction=b"find")
    with pytest.raises(TypeError, match="instruction is int"):
        reranker.rerank_many([QUERY], [DOCUMENTS], instruction=7)


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
