"""Schemathesis asks a server what its OpenAPI document says, and what it does not say."""

from __future__ import annotations

import sys

import pytest

from tests.support import children

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("schemathesis")

from tests.support.serving import serving

LENIENT = "negative_data_rejection,positive_data_acceptance"
"""Checks that do not hold of the formats: a number or a boolean may be text, and some bodies that a schema allows are refused, such
as one with a document of which nothing can be read."""


@pytest.mark.parametrize("key", ["", "sesame"], ids=["open", "keyed"])
def test_schemathesis_finds_no_fault(reranker, key):
    command = [sys.executable, "-m", "schemathesis.cli", "run", "--no-color", "--checks", "all"]
    command += [
        "--exclude-checks",
        LENIENT,
        "--max-examples",
        "40",
        "--continue-on-failure",
        "--suppress-health-check",
        "all",
        "--seed",
        "1",
    ]
    command += ["--header", f"Authorization: Bearer {key}"] if key else []
    with serving({"org/tiny": reranker}, api_key=key, max_waiting_seconds=600) as served:
        done = children.run([*command, f"{served.url}/openapi.json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        told = {int(status) for status in served.statuses()}
        assert 200 in told
        assert max(told) < 500
