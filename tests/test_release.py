"""What a release is made of: versions that agree, distributions that hold what they should, and the workflow that publishes."""

from __future__ import annotations

import io
import re
import shutil
import sys
import tarfile
import zipfile
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from tests.support.pages import REPOSITORY

NAMED = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md", "examples/deploy/compose.yaml", "examples/deploy/kubernetes.yaml")


def script(name, monkeypatch):
    """The module of a program in .ci."""
    spec = spec_from_file_location(f"ci_{name}", REPOSITORY / ".ci" / f"{name}.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def version(monkeypatch):
    return script("version", monkeypatch)


@pytest.fixture
def tree(tmp_path):
    """The files that name a version, to be changed."""
    for name in NAMED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(re.sub(r"(?s)## Unreleased\n.*", "## Unreleased\n\n### Added\n- A thing.\n", changelog.read_text()))
    return tmp_path


def test_a_release_is_named_and_dated_in_every_file(version, tree, capsys):
    assert version.main(["7.8.9"], tree) == 0
    assert version.main(["--check", "v7.8.9"], tree) == 0
    changelog = (tree / "CHANGELOG.md").read_text()
    date = re.search(r"(?m)^date-released: (\d{4}-\d\d-\d\d)$", (tree / "CITATION.cff").read_text())[1]
    assert f"## Unreleased\n\n## 7.8.9 - {date}\n\n### Added\n- A thing.\n" in changelog
    assert all("7.8.9" in (tree / name).read_text() for name in NAMED)
    assert "0.1.0" not in (tree / "examples/deploy/compose.yaml").read_text()
    assert version.main(["7.8.9"], tree) == 1
    assert "has 7.8.9 already" in capsys.readouterr().out
    # The next one, of a tree that is dated already.
    (tree / "CHANGELOG.md").write_text(changelog.replace("## Unreleased\n", "## Unreleased\n\n### Fixed\n- A fault.\n", 1))
    assert version.main(["7.8.10"], tree) == 0
    assert (tree / "CITATION.cff").read_text().count("date-released") == 1


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        ("pyproject.toml", 'version = "7.8.9"', 'version = "7.8.8"', "pyproject.toml has version 7.8.8"),
        ("CITATION.cff", "version: 7.8.9", "version: 7.8.8", "CITATION.cff has version 7.8.8"),
        ("CITATION.cff", "date-released: 2", "date-released: 1", "does not begin with the heading 7.8.9 - 1"),
        ("CHANGELOG.md", "## Unreleased\n", "## Unreleased\n- Late.\n", "lines below Unreleased"),
        ("examples/deploy/compose.yaml", "resift:7.8.9", "resift:7.8.8", "compose.yaml names another image"),
    ],
)
def test_a_tree_that_is_not_the_tags_is_refused(version, tree, capsys, name, old, new, fault):
    assert version.main(["7.8.9"], tree) == 0
    path = tree / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert version.main(["--check", "v7.8.9"], tree) == 1
    assert fault in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--check"], ["7.8"], ["7.8.9", "more"], ["--check", "main"]])
def test_what_is_no_version_is_refused(version, tree, capsys, arguments):
    assert version.main(arguments, tree) == 2
    assert "python .ci/version.py" in capsys.readouterr().err


def test_a_release_needs_lines_in_the_changelog(version, tree, capsys):
    before = (tree / "pyproject.toml").read_text()
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")
    assert version.main(["7.8.9"], tree) == 1
    assert "nothing below Unreleased" in capsys.readouterr().out
    assert (tree / "pyproject.toml").read_text() == before


# Distributions

LICENCES = ("LICENSE", "models/resift_models/ms-marco-minilm-l12/LICENSE", "models/resift_models/ms-marco-minilm-l12/NOTICE")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """made(wheel names, sdist names): the exit code of the check of such distributions, whose version is this one."""
    found = script("distributions", monkeypatch)
    number = found.tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]

    def make(more_in_wheel=(), more_in_sdist=(), without=()):
        with zipfile.ZipFile(tmp_path / f"resift-{number}-py3-none-any.whl", "w") as wheel:
            names = ["resift/__init__.py", *(f"resift-{number}.dist-info/licenses/{name}" for name in LICENCES)]
            for name in (*names, *more_in_wheel):
                if not name.endswith(tuple(without) or ("\0",)):
                    wheel.writestr(name, "")
        with tarfile.open(tmp_path / f"resift-{number}.tar.gz", "w:gz") as sdist:
            for name in ("pyproject.toml", "README.md", "CHANGELOG.md", *LICENCES, *more_in_sdist):
                sdist.addfile(tarfile.TarInfo(f"resift-{number}/{name}"), io.BytesIO())
        return found.main(tmp_path)

    return make


def test_distributions_of_what_belongs_there_pass(made, capsys):
    assert made(["resift/serve/page/page.js", "resift_models/x/NOTICE"], ["export/resift_export/build/draft.py"]) == 0
    assert capsys.readouterr().out.endswith(f"licences: {', '.join(LICENCES)}\n")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"more_in_wheel": ["tests/conftest.py"]}, "holds tests/conftest.py"),
        ({"more_in_wheel": ["resift/core.pyc"]}, "holds resift/core.pyc"),
        ({"without": ["NOTICE"]}, "lacks resift-"),
        ({"more_in_sdist": ["build/lib/x.py"]}, "holds build/lib/x.py"),
    ],
)
def test_distributions_of_anything_else_are_refused(made, capsys, arguments, fault):
    assert made(**arguments) == 1
    assert fault in capsys.readouterr().out


def test_another_file_beside_the_distributions_is_refused(made, tmp_path, capsys):
    (tmp_path / "other.whl").write_bytes(b"")
    assert made() == 1
    assert "holds other.whl, resift-" in capsys.readouterr().out


# The workflow


def workflow():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((REPOSITORY / ".github" / "workflows" / "release.yml").read_text())


def test_only_the_job_that_runs_nothing_of_the_repository_may_publish():
    found = workflow()
    assert found["permissions"] == {}
    assert found[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as True
    jobs = found["jobs"]
    writing = {name for name, job in jobs.items() if "write" in job["permissions"].values()}
    assert writing == {"publish"}
    publish = jobs["publish"]
    assert set(publish["needs"]) == jobs.keys() - {"publish"}
    assert publish["permissions"] == {"id-token": "write", "attestations": "write"}
    assert all("run" not in step and "checkout" not in step["uses"] for step in publish["steps"])
    assert publish["steps"][-1]["with"] == {"attestations": True}
    assert all("password" not in step.get("with", {}) for step in publish["steps"])


def test_what_is_published_is_what_the_dry_run_made():
    jobs = workflow()["jobs"]
    assert [step["run"] for step in jobs["build"]["steps"] if "run" in step] == [
        'python .ci/version.py --check "$GITHUB_REF_NAME"',
        "bash .ci/dist",
    ]
    upload, download = jobs["build"]["steps"][-1], jobs["publish"]["steps"][0]
    assert (
        (upload["with"]["name"], upload["with"]["path"])
        == (download["with"]["name"], download["with"]["path"])
        == ("dist", "dist/")
    )
