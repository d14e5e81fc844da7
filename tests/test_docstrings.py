"""The examples of docstrings: those that begin with >>> do what they show."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

from tests.support.pages import REPOSITORY

FILES = [
    path
    for root in ("engine", "export")
    for path in sorted((REPOSITORY / root).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
MODULES = [".".join(path.with_suffix("").relative_to(REPOSITORY).parts[1:]) for path in FILES]


@pytest.mark.parametrize("module", MODULES)
def test_an_example_shows_what_it_does(module):
    failed, tried = doctest.testmod(import_module(module), optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0  # doctest has printed what differs


def test_the_reranker_and_its_plans_have_examples():
    assert {"resift.plans", "resift.reranker"} <= set(MODULES)
