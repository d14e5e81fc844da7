"""No file of a checkpoint is ever run, whatever its configuration says and whatever is typed on standard input."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest

from tests.support import children

PLANTED = """
import os, pathlib
pathlib.Path(os.environ["RAN"]).write_text("ran")
from transformers import {base}
class Mine({base}):
    model_type = "mine"
"""
CONFIG, MODEL, TOKENIZER = "configuration_mine.py", "modeling_mine.py", "tokenization_mine.py"


def planted(folder):
    """Plants files that leave a trace when they are imported."""
    for name, base in ((CONFIG, "BertConfig"), (MODEL, "BertForSequenceClassification"), (TOKENIZER, "PreTrainedTokenizerFast")):
        (folder / name).write_text(PLANTED.format(base=base))


def changed(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def custom_type(folder):
    auto_map = {"AutoConfig": "configuration_mine.Mine", "AutoModelForSequenceClassification": "modeling_mine.Mine"}
    changed(folder / "config.json", model_type="mine", auto_map=auto_map)


def custom_type_without_map(folder):
    changed(folder / "config.json", model_type="mine")


def custom_model_of_a_known_type(folder):
    auto_map = {"AutoConfig": "configuration_mine.Mine", "AutoModelForSequenceClassification": "modeling_mine.Mine"}
    changed(folder / "config.json", auto_map=auto_map)


def custom_tokenizer(folder):
    changed(
        folder / "tokenizer_config.json",
        tokenizer_class="MineTokenizer",
        auto_map={"AutoTokenizer": [None, "tokenization_mine.Mine"]},
    )


def custom_module(folder):
    listed = [{"idx": 0, "name": "0", "path": "", "type": "modeling_mine.Mine"}]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')


def custom_activation(folder):
    changed(folder / "config.json", sentence_transformers={"activation_fn": "modeling_mine.Mine"})


REFUSED = [custom_type, custom_module]
LOADED = [custom_model_of_a_known_type, custom_tokenizer, custom_activation]
"""In place of the planted class, transformers' own for the type, and the default activation."""
UNKNOWN = [custom_type_without_map]
LOAD = """
import sys
from resift_export.checkpoint import load as checkpoint
from resift.errors import ExportError
try:
    checkpoint.load(sys.argv[1])
except ExportError as error:
    print(error)
    sys.exit(1)
"""


@pytest.mark.parametrize("plant", [*REFUSED, *LOADED, *UNKNOWN])
def test_a_planted_file_does_not_run(checkpoint_of, tmp_path, plant):
    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "planted")
    planted(folder)
    plant(folder)
    ran = tmp_path / "ran"
    environment = {**os.environ, "RAN": str(ran), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = children.run(
        [sys.executable, "-c", LOAD, str(folder)],
        input=b"y\n" * 100,
        capture_output=True,
        env=environment,
        cwd=tmp_path,
    )
    output = done.stdout.decode()
    assert not ran.exists()
    assert "Traceback" not in done.stderr.decode()
    assert done.returncode == (0 if plant in LOADED else 1)
    if plant in REFUSED:
        assert "needs code of its own" in output
        assert "trust_remote_code" not in output
        assert output.count("\n") == 1


def test_the_planted_file_would_run_if_it_were_trusted(checkpoint_of, tmp_path):
    """Shows that the test above can fail."""
    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "planted")
    planted(folder)
    custom_type(folder)
    ran = tmp_path / "ran"
    trusting = "import sys, transformers; transformers.AutoConfig.from_pretrained(sys.argv[1])"
    environment = {**os.environ, "RAN": str(ran), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", trusting, str(folder)]
    children.run(command, input=b"y\n" * 100, capture_output=True, env=environment)
    assert ran.exists()
