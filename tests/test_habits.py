"""What contributors type: the Makefile's targets and the hooks of pre-commit run what CI runs, and the pages name what there is."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.support.pages import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"(?m)^([a-z]+):", MAKEFILE)
LINT = [
    line
    for line in (REPOSITORY / ".ci" / "lint").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith(("#", "set ", "cd "))
]


def test_every_target_is_phony_and_says_what_it_does():
    phony = re.search(r"(?m)^\.PHONY: (.+)$", MAKEFILE)[1].split()
    assert sorted(phony) == sorted(TARGETS)
    assert re.findall(r"(?m)^([a-z]+):  ## \S", MAKEFILE) == TARGETS


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_lists_its_targets_and_names_files_that_exist():
    listed = subprocess.run(["make", "-s"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"(?m)^make ([a-z]+)", listed) == TARGETS
    commands = subprocess.run(["make", "-n", *TARGETS], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    named = re.findall(r"(?:bash|-c) (\S+/\S+)", commands)
    assert len(named) > 5
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_the_pages_name_targets_that_exist():
    pages = [REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"`make ([a-z]+)", page.read_text(encoding="utf-8"))}
    assert {"setup", "test", "lint", "dist"} <= named <= set(TARGETS)


def test_the_hooks_are_the_linters_of_ci_in_its_versions():
    yaml = pytest.importorskip("yaml")
    (repository,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    hooks = repository["hooks"]
    # Of the active environment, which has what constraints/test.txt says, and not of one of pre-commit's own.
    assert {hook["language"] for hook in hooks} == {"system"}
    assert [re.sub(r" \.$", "", line) for line in LINT] == [hook["entry"].removesuffix(" --force-exclude") for hook in hooks]


def test_ci_runs_the_linters_once_it_has_installed_them():
    run = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert "'.[check]'\nbash .ci/lint\n" in run
