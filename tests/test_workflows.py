"""The workflows for those who host a copy: they hold what the documentation says, and their commands name what exists."""

from __future__ import annotations

import re

import pytest

from resift.runtime.wheels import NEWEST_PYTHON
from tests.support.pages import REPOSITORY

yaml = pytest.importorskip("yaml")
FILES = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


def jobs():
    return {f"{file.name} {name}": job for file in FILES for name, job in yaml.safe_load(file.read_text())["jobs"].items()}


def commands():
    return [step["run"] for job in jobs().values() for step in job["steps"] if "run" in step]


def test_every_job_ends_and_every_step_does_one_thing():
    for name, job in jobs().items():
        assert isinstance(job["timeout-minutes"], int), name
        assert all(("run" in step) != ("uses" in step) for step in job["steps"]), name


def test_actions_of_others_are_pinned_by_their_commit_with_the_version_beside_it():
    lines = [line for file in FILES for line in file.read_text().splitlines() if "uses:" in line]
    assert lines
    assert [line for line in lines if not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


def test_every_workflow_begins_with_few_rights():
    for file in FILES:
        assert yaml.safe_load(file.read_text())["permissions"] in ({}, {"contents": "read"}), file.name


def test_all_systems_run_with_the_oldest_and_the_newest_python():
    matrix = jobs()["tests.yml platforms"]["strategy"]["matrix"]
    assert {re.sub(r"-[0-9.]+", "", system) for system in matrix["system"]} == {
        "ubuntu",
        "ubuntu-arm",
        "windows",
        "windows-arm",
        "macos",
    }
    assert matrix["python"] == ["3.11", ".".join(map(str, NEWEST_PYTHON))]
    between = {f"3.{minor}" for minor in range(12, NEWEST_PYTHON[1])}
    assert {each["python"] for each in matrix["include"]} == between


def test_the_files_that_they_name_exist():
    named = {word for command in commands() for word in command.split() if re.match(r"(\.ci|tests|examples)/", word)}
    assert named
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []


def test_the_first_command_is_the_readmes():
    readme = (REPOSITORY / "README.md").read_text()
    assert any(command in readme for command in commands() if command.startswith("pip install ."))
