"""What pages say of the code: the messages, public names, commands and settings that they list are those of the code."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import fields
from importlib import import_module, metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import resift
from resift.cli.main import parser
from resift.settings import PROVIDERS, Settings
from tests.support.pages import REPOSITORY, SITE

PAGES = {page.name: page.read_text(encoding="utf-8") for page in SITE}
SKILL = REPOSITORY / "examples" / "skills" / "resift" / "SKILL.md"
VARIABLE = "\0"
"""What stands in the text of a message for what differs."""


# Troubleshooting


def text_of(node: ast.expr) -> str:
    """The text of a literal, with VARIABLE for each expression in it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) for part in parts)
        case ast.FormattedValue():
            return VARIABLE
        case _:
            return ""


@pytest.fixture(scope="module")
def texts_in_code() -> list[str]:
    """All texts of the engine and the toolchain, docstrings aside."""
    found = []
    for root in ("engine", "export"):
        for path in (REPOSITORY / root).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"), path.name)
            statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            literals = (node for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr))
            found += [text_of(node) for node in literals if id(node) not in statements]
    return found


ROWS = re.findall(r"(?m)^\| (`.+?`|`` .+? ``) \| (.+) \| (.+) \|$", PAGES["troubleshooting.md"])


@pytest.mark.parametrize("message", [message.strip("` ") for message, _, _ in ROWS])
def test_a_message_of_the_troubleshooting_page_is_in_the_code(message, texts_in_code):
    """A … stands for what differs, so that the rest has to be in one text of the code, in this order."""
    parts = [part.strip() for part in message.split("…")]
    assert sum(map(len, parts)) >= 12, "too little to be found by"
    pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    assert any(pattern.search(text) for text in texts_in_code)


def test_the_troubleshooting_page_has_each_message_once():
    assert len(ROWS) > 50
    assert len({message for message, _, _ in ROWS}) == len(ROWS)
    assert sum(line.startswith("| `") for line in PAGES["troubleshooting.md"].splitlines()) == len(ROWS)


# The reference


def directives(module: str) -> set[str]:
    """The names that reference.md documents of a module."""
    named: dict[str, set[str]] = {}
    current = ""
    for kind, name in re.findall(r"(?m)^\.\. (currentmodule|auto\w+):: ([\w.]+)$", PAGES["reference.md"]):
        if kind == "currentmodule":
            current = name
        else:
            named.setdefault(current, set()).add(name)
    return named[module]


@pytest.mark.parametrize("module", ["resift", "resift.pools", "resift.evaluate", "resift.integrations.sentence_transformers"])
def test_the_reference_has_all_public_names(module):
    assert directives(module) == set(import_module(module).__all__)


def test_the_reference_has_all_adapters():
    """Each class that an adapter's module is there for, and the functions: what `adapters.md` tells to import."""
    imported = r"(?m)from resift\.integrations\.(\w+(?:\.\w+)?) import ([\w, ]+?)(?:  #|$)"
    told = re.findall(imported, "\n".join(PAGES.values()))
    listed = dict(re.findall(r"(?m)^\| `([\w.]+)` \| (.+) \|$", PAGES["reference.md"].partition("## Adapters")[2]))
    assert len(told) > 5
    for module, names in told:
        if module == "sentence_transformers":
            continue
        for name in names.split(", "):
            assert f"`{name}`" in listed[module]
    for module, names in listed.items():
        path = REPOSITORY.joinpath("engine", "resift", "integrations", *module.split("."))
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", source), f"{module}.{name}"


def test_the_reference_has_all_errors_of_the_tree():
    drawn = set(re.findall(r"(\w+Error)\b", resift.errors.__doc__.partition("A value of")[0])) - {"ValueError", "ImportError"}
    assert drawn == {name for name in directives("resift") if name.endswith("Error")}


# Commands and settings


def test_the_pages_have_all_commands():
    commands = set(next(action for action in parser()._actions if action.choices).choices)
    rows = "\n".join(line for line in PAGES["command-line.md"].splitlines() if line.startswith("| `resift "))
    assert set(re.findall(r"`resift ([a-z]+)`", rows)) == commands


def test_the_settings_page_has_all_settings():
    rows = re.findall(r"(?m)^\| `(\w+)` \|", PAGES["settings.md"])
    assert sorted(rows) == sorted(each.name for each in fields(Settings) if each.name != "calibration")
    assert "Settings(calibration=" in PAGES["settings.md"]


def test_the_platforms_page_has_all_providers():
    assert [name for name in PROVIDERS if f"`{name}`" not in PAGES["platforms.md"]] == []


# What coding agents read


def test_llms_txt_has_each_page_once_and_the_form_of_the_convention():
    lines = (REPOSITORY / "docs" / "llms.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert lines[2].startswith("> ")
    lists = lines[next(number for number, line in enumerate(lines) if line.startswith("## ")) :]
    assert all(re.fullmatch(r"|## .+|- \[.+\]\([a-z-]+\.md\): .+", line) for line in lists)
    linked = [name for line in lists for name in re.findall(r"\(([a-z-]+\.md)\)", line)]
    assert sorted(linked) == sorted(name for name in PAGES if name != "index.md")


def test_the_skill_has_the_form_that_agents_find():
    head, body = SKILL.read_text(encoding="utf-8").removeprefix("---\n").split("\n---\n", 1)
    declared = dict(line.split(": ", 1) for line in head.splitlines())
    assert declared["name"] == SKILL.parent.name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", declared["name"])
    assert 0 < len(declared["description"]) <= 1024
    assert len(body.splitlines()) < 500


# Licences


def dependencies(name, extra, found):
    """The distributions that an installation brings along, by their names on PyPI, added to `found`."""
    for requirement in map(Requirement, metadata.requires(name) or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if (normal := canonicalize_name(requirement.name)) not in found:
            found.add(normal)
            dependencies(requirement.name, "", found)
    return found


@pytest.mark.parametrize(("extra", "heads"), [("", ["package"]), ("serve", ["package", "package of `serve`"])])
def test_the_licences_of_all_that_is_installed_are_named(extra, heads):
    page = PAGES["licences-and-privacy.md"]
    tables = [page.partition(f"| {head} | licence |\n|---|---|\n")[2].partition("\n\n")[0] for head in heads]
    named = {name for table in tables for row in table.splitlines() for name in row.split("|")[1].strip().split(", ")}
    found = dependencies("resift", extra, set())
    locked = re.findall(r"(?m)^([a-z0-9-]+)==([^ \n]+)", (REPOSITORY / "constraints" / "test.txt").read_text(encoding="utf-8"))
    if any((name, metadata.version(name)) not in locked for name in found):
        pytest.skip("other versions than the locked ones may bring other packages along")
    assert found == named


def test_the_citation_is_of_this_version():
    declared = dict(re.findall(r"(?m)^(\w[\w-]*): (.+)$", (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (declared["version"], declared["license"]) == (project["version"], project["license"])
