"""The pairs to which frozen documents are fitted."""

from __future__ import annotations

import pytest

from resift import ExportError
from resift_export.build import fitting_rows
from resift_export.build.freeze import frozen_layers
from resift_export.checkpoint import load as checkpoints
from resift_export.recipe import CalibrationPair, Recipe


@pytest.fixture(scope="module")
def loaded(source, toolchain):
    return checkpoints.load(source)


def rows_of(loaded, pairs, monkeypatch, tokens):
    monkeypatch.setattr(fitting_rows, "TOKENS", tokens)
    return fitting_rows.fitting_rows(loaded, pairs, frozen_layers(2))


def test_there_are_rows_of_all_lengths_and_as_many_as_the_tokens_allow(loaded, monkeypatch):
    pairs = Recipe().calibration_pairs()
    few, more = (rows_of(loaded, pairs, monkeypatch, tokens) for tokens in (5_000, 30_000))
    assert [row.feed["input_ids"].tolist() for row in more[: len(few)]] == [row.feed["input_ids"].tolist() for row in few]
    lengths = [row.feed["input_ids"].shape[1] for row in more]
    assert len(few) < len(more) / 4
    assert 15_000 < sum(lengths) <= 30_000 + loaded.max_length
    assert all(length > 32 for length in lengths)
    assert all(row.updated % 16 == 0 and row.updated < length for row, length in zip(more, lengths, strict=True))
    assert max(lengths) == loaded.max_length
    assert sum(length < 64 for length in lengths) > 20


def test_no_document_of_its_own_is_both_learned_and_held_out(loaded, monkeypatch):
    monkeypatch.setattr(fitting_rows, "JOINED", (1,))
    pairs = [CalibrationPair(query=f"tide {number}", document=f"{number} moon " * (20 + number)) for number in range(40)]
    rows = rows_of(loaded, pairs, monkeypatch, 40_000)
    by_document = {}
    for row in rows:
        [ids], [segments] = row.feed["input_ids"], row.feed["token_type_ids"]
        by_document.setdefault(tuple(ids[segments == 1]), set()).add(row.is_held_out)
    assert all(len(kinds) == 1 for kinds in by_document.values())
    assert 0.1 < sum(row.is_held_out for row in rows) / len(rows) < 0.3
    assert not rows[0].is_held_out


def test_pairs_that_are_all_short_end_with_the_tokens_too(loaded, monkeypatch):
    pairs, encoded = [CalibrationPair(query="tide", document="moon")] * 500, []
    monkeypatch.setattr(fitting_rows, "JOINED", (1,))
    tokenizer = loaded.pair_tokenizer()
    encode = type(tokenizer).encode
    monkeypatch.setattr(type(tokenizer), "encode", lambda *texts: encoded.append(1) or encode(*texts))
    with pytest.raises(ExportError, match="no calibration pair is longer than 32 tokens"):
        rows_of(loaded, pairs, monkeypatch, 3_000)
    assert len(encoded) < 1_000
