"""The command line as its users meet it: a process with arguments, streams and an exit code."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sysconfig
import threading
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

import tiny
from resift import providers

RESIFT = shutil.which("resift", path=sysconfig.get_path("scripts"))
FULL = Path("/dev/full")
TIMEOUT = 120
QUERY = "how do tides work"
DOCUMENTS = tiny.texts()[1:17:2]
LINES = "".join(f"{document}\n" for document in DOCUMENTS).encode()

posix = pytest.mark.skipif(os.name != "posix", reason="signals, pipes and terminals as POSIX has them")


def resift(*arguments, given=b"", **environment):
    """What `resift ARGUMENTS` answers to `given` on its standard input."""
    command = [RESIFT, *map(str, arguments)]
    done = subprocess.run(
        command, input=given, capture_output=True, timeout=TIMEOUT, env={**os.environ, **environment}, check=False
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


@contextmanager
def running(*arguments):
    """The process of `resift ARGUMENTS` with a pipe at each end, killed if it is still there at the end or after TIMEOUT."""
    command = [RESIFT, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        timer = threading.Timer(TIMEOUT, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


def answered(done):
    """Its standard output, of a run without fault or warning."""
    assert (done.code, done.err) == (0, "")
    return done.out


def complaint(done, code=1):
    """The one line on standard error of a run that failed with `code` and printed nothing else."""
    assert "Traceback" not in done.err
    assert done.err.startswith("resift: ")
    assert done.err.endswith("\n")
    assert done.err.count("\n") == 1
    assert (done.code, done.out) == (code, "")
    return done.err


def row(rank, result):
    return f"{rank:>4}  {result.score:>8.3f}  {result.index + 1:>5}  {result.document}"


@pytest.fixture
def file(tmp_path):
    """file(content, name): the path of a file with that content."""

    def write(content, name="documents.txt"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.fixture
def copy(artifact, tmp_path):
    """A copy of the tiny artifact, to be spoiled."""
    return shutil.copytree(artifact, tmp_path / "copy")


@pytest.fixture
def disagreeing(copy):
    """An artifact in good order whose checkpoint ranks the other way round."""
    certificate = json.loads((copy / "certificate.json").read_bytes())
    for pool in certificate["pools"]:
        pool["checkpoint"] = [-logit for logit in pool["checkpoint"]]
    content = json.dumps(certificate).encode()
    (copy / "certificate.json").write_bytes(content)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["files"]["certificate.json"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_a_table_ranks_the_lines_of_a_file(artifact, reranker, file):
    out = answered(resift("rerank", QUERY, file(LINES), "--model", artifact))
    ranking = reranker.rerank(QUERY, DOCUMENTS)
    assert [result.index for result in ranking] != list(range(len(DOCUMENTS)))
    assert out.splitlines() == [
        "rank     score   line  document",
        *(row(rank, result) for rank, result in enumerate(ranking, 1)),
    ]


@pytest.mark.parametrize("dash", [["-"], []], ids=["dash", "no FILE"])
def test_documents_come_from_standard_input(artifact, file, dash):
    from_file = answered(resift("rerank", QUERY, file(LINES), "--model", artifact))
    assert answered(resift("rerank", QUERY, *dash, "--model", artifact, given=LINES)) == from_file


@pytest.mark.parametrize("kind", ["lines", "JSON lines"])
def test_documents_come_from_gzip(artifact, file, kind):
    content = LINES if kind == "lines" else b"".join(b'{"text": %s}\n' % json.dumps(text).encode() for text in DOCUMENTS)
    packed = file(gzip.compress(content), "documents.gz")
    out = answered(resift("rerank", QUERY, packed, "--model", artifact))
    assert out == answered(resift("rerank", QUERY, "--model", artifact, given=LINES))


def test_json_is_one_object_with_the_whole_ranking(artifact, reranker):
    out = answered(resift("rerank", QUERY, "--model", artifact, "--json", given=LINES))
    assert out.count("\n") == 1
    found = json.loads(out)
    assert list(found) == ["query", "results"]
    assert found["query"] == QUERY
    names = ["index", "score", "logit", "tokens_cut", "document"]
    assert [list(result) for result in found["results"]] == [names] * len(DOCUMENTS)
    assert found["results"] == [{name: getattr(result, name) for name in names} for result in reranker.rerank(QUERY, DOCUMENTS)]


def test_fields_of_json_lines_come_out_again(artifact):
    rows = [{"docid": f"d{number}", "text": text, "meta": {"tags": [number, None]}} for number, text in enumerate(DOCUMENTS)]
    given = "".join(json.dumps(row) + "\n" for row in rows).encode()
    results = json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given)))["results"]
    assert sorted(result["index"] for result in results) == list(range(len(rows)))
    for result in results:
        given_row = rows[result["index"]]
        assert (result["docid"], result["meta"], result["document"]) == (given_row["docid"], given_row["meta"], given_row["text"])
        assert "text" not in result


def test_top_k_prints_the_best_only(artifact):
    whole = answered(resift("rerank", QUERY, "--model", artifact, given=LINES))
    best = answered(resift("rerank", QUERY, "--model", artifact, "--top-k", "3", given=LINES))
    assert best.splitlines() == whole.splitlines()[:4]
    found = json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--top-k", "3", "--json", given=LINES)))
    assert len(found["results"]) == 3


def test_what_a_document_lost_is_said_beside_it(artifact, reranker):
    documents = ["short", "water " * 300]
    cut = {result.index: result.tokens_cut for result in reranker.rerank(QUERY, documents)}[1]
    given = "\n".join(documents).encode()
    lines = answered(resift("rerank", QUERY, "--model", artifact, given=given)).splitlines()
    assert cut > 100
    assert [line.endswith(f"  ({cut} tokens cut)") for line in lines].count(True) == 1
    assert sum("tokens cut" in line for line in lines) == 1
    results = json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given)))["results"]
    assert {result["index"]: result["tokens_cut"] for result in results} == {0: 0, 1: cut}


def test_what_a_query_lost_is_said_at_the_end(artifact, reranker):
    query = "tides " * 300
    cut = reranker.rerank(query, DOCUMENTS).query_tokens_cut
    assert cut > 100
    out = answered(resift("rerank", query, "--model", artifact, given=LINES))
    assert out.splitlines()[-1] == f"the query was too long: its last {cut} tokens were not read"
    found = json.loads(answered(resift("rerank", query, "--model", artifact, "--json", given=LINES)))
    assert found["query_tokens_cut"] == cut


@pytest.mark.parametrize("given", [b"", b"\n \r\n\n"], ids=["nothing", "blank lines"])
def test_no_documents_are_an_empty_ranking(artifact, given):
    out = answered(resift("rerank", QUERY, "--model", artifact, given=given))
    assert out == "rank     score   line  document\n"
    out = answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given))
    assert json.loads(out) == {"query": QUERY, "results": []}


def test_blank_lines_are_no_documents(artifact):
    given = b"\n\n" + LINES.replace(b"\n", b"\r\n  \n")
    out = answered(resift("rerank", QUERY, "--model", artifact, "--json", given=given))
    assert out == answered(resift("rerank", QUERY, "--model", artifact, "--json", given=LINES))


def test_text_in_other_scripts_is_printed_as_it_came(artifact):
    out = answered(resift("rerank", QUERY, "--model", artifact, given="潮の満ち引き 🌊 é\n".encode(), PYTHONIOENCODING="utf-8"))
    assert out.endswith("  潮の満ち引き 🌊 é\n")


def test_max_length_and_precision_are_the_callers(artifact):
    given = ("water " * 100).encode()
    cuts = []
    for limit in ("20", "50"):
        out = answered(resift("rerank", QUERY, "--model", artifact, "--max-length", limit, "--json", given=given))
        cuts.append(json.loads(out)["results"][0]["tokens_cut"])
    assert cuts[0] == cuts[1] + 30
    int8, float32 = (
        json.loads(answered(resift("rerank", QUERY, "--model", artifact, "--json", "--precision", precision, given=LINES)))
        for precision in ("int8", "float32")
    )
    assert [result["logit"] for result in int8["results"]] != [result["logit"] for result in float32["results"]]


def test_without_a_model_the_embedded_one_ranks():
    answer = "Tides rise and fall because the gravity of the moon pulls the oceans."
    given = f"Bread rises because yeast makes gas.\n{answer}\n".encode()
    found = json.loads(answered(resift("rerank", "what causes the tides", "--json", given=given)))
    assert found["results"][0]["document"] == answer


def test_a_missing_file_is_named(tmp_path):
    assert f"{tmp_path / 'none.txt'} cannot be read" in complaint(resift("rerank", QUERY, tmp_path / "none.txt"))


def test_a_file_that_is_no_gzip_is_named(file):
    path = file(LINES, "documents.gz")
    assert f"{path} cannot be read" in complaint(resift("rerank", QUERY, path))


def test_a_bad_json_line_is_named_with_its_file_and_number(file):
    path = file(b'{"text": "a"}\n\n{"text": "b"\n', "documents.jsonl")
    assert f"{path}, line 3: not JSON" in complaint(resift("rerank", QUERY, path))
    assert "-, line 2: an object whose 'text' is a number" in complaint(
        resift("rerank", QUERY, given=b'{"text": "a"}\n{"text": 7}\n')
    )


@pytest.mark.parametrize("content", [b"a\n\xff\xfe\n", b'{"text": "a"}\n{"text": "\xff"}\n'], ids=["lines", "JSON lines"])
def test_invalid_utf_8_is_named_with_its_file_and_number(file, content):
    path = file(content)
    assert f"{path}, line 2: not " in complaint(resift("rerank", QUERY, path))


@pytest.mark.parametrize("command", [["rerank", QUERY, "--model"], ["verify"], ["info"]], ids=lambda command: command[0])
def test_a_missing_artifact_is_named(tmp_path, command):
    assert f"no artifact '{tmp_path / 'none'}'" in complaint(resift(*command, tmp_path / "none", given=LINES))


@pytest.mark.parametrize("command", [["rerank", QUERY, "--model"], ["verify"], ["info"]], ids=lambda command: command[0])
def test_a_damaged_artifact_is_refused(copy, command):
    graph = copy / "model.int8.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    found = complaint(resift(*command, copy, given=LINES))
    assert f"{graph} has SHA-256 " in found
    assert "damaged" in found


def test_a_cut_off_artifact_is_refused(copy):
    graph = copy / "model.int8.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert "the copy is incomplete" in complaint(resift("rerank", QUERY, "--model", copy, given=LINES))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--top-k", "0", "top_k is 0; expected 1 or more"),
        ("--threads", "0", "Settings.threads is 0; expected 1 to 1024"),
        ("--threads", "99999999999", "threads is 99999999999"),
        ("--max-length", "100000", "max_length is 100000 tokens, but this model was made for"),
        ("--max-length", "4", "expected at least"),
    ],
)
def test_a_value_out_of_range_is_named(artifact, option, value, said):
    assert said in complaint(resift("rerank", QUERY, "--model", artifact, option, value, given=LINES))


@pytest.mark.skipif("CUDAExecutionProvider" in providers.available(), reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("command", [["rerank", QUERY, "--model"], ["verify"], ["info"]], ids=lambda command: command[0])
def test_cuda_where_there_is_none_is_refused(artifact, command):
    found = complaint(resift(*command, artifact, "--provider", "cuda", given=LINES))
    assert "no CUDAExecutionProvider" in found
    assert "install onnxruntime-gpu" in found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["rerank"], "expected either QUERY or --pools POOLS"),
        (["rerank", QUERY, "--colour"], "unrecognized arguments: --colour"),
        (["rerank", QUERY, "--top-k", "many"], "argument --top-k: invalid int value: 'many'"),
        (["rerank", QUERY, "--provider", "tpu"], "argument --provider: invalid choice: 'tpu'"),
        (["sort"], "invalid choice: 'sort'"),
        (["--colour"], "the following arguments are required: COMMAND"),
    ],
)
def test_a_wrong_command_line_shows_its_usage(arguments, said):
    done = resift(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: resift")
    last = done.err.splitlines()[-1]
    assert last.startswith("resift")
    assert said in last
    assert "Traceback" not in done.err


def test_version():
    assert answered(resift("--version")) == f"resift {version('resift')}\n"


def test_help_lists_the_commands_and_the_exit_codes():
    out = answered(resift("--help"))
    for command in ("rerank", "export", "verify", "info"):
        assert f"\n    {command} " in out
    said = out[out.index("exit codes: ") :]
    for code in ("0 done", "1 ", "2 ", "3 ", "130 interrupted"):
        assert code in said


@pytest.mark.parametrize("command", ["rerank", "export", "verify", "info"])
def test_help_gives_an_example_of_each_command(command):
    out = answered(resift("--help")) + answered(resift(command, "--help"))
    assert any(line.startswith(f"  resift {command}") for line in out.splitlines())


@pytest.mark.parametrize("command", ["rerank", "export", "verify", "info"])
def test_each_commands_help_describes_its_options(command):
    out = answered(resift(command, "--help"))
    assert out.startswith(f"usage: resift {command} ")
    assert ("--precision" in out, "--json" in out) == (True, command != "export")


def test_verify_compares_with_the_checkpoint(artifact):
    out = answered(resift("verify", artifact))
    for said in ("40 pools", "mean top-10 overlap", "mean Kendall tau", "worst pool's tau", "p99 error / range"):
        assert said in out
    found = json.loads(answered(resift("verify", artifact, "--json")))
    assert found.keys() == {
        "artifact", "precision", "provider", "bounds", "agreement", "at_export", "largest_change_since_export"
    }  # fmt: skip
    assert (found["artifact"], found["precision"], found["provider"]) == (str(artifact), "int8", "cpu")
    assert found["bounds"].keys() == {"overlap", "tau", "worst_tau", "error"}
    assert found["bounds"].keys() < found["agreement"].keys() == found["at_export"].keys()
    assert found["agreement"]["tau"] >= found["bounds"]["tau"]
    assert found["largest_change_since_export"] < 0.05


def test_verify_beyond_its_bounds_is_exit_code_3(disagreeing):
    done = resift("verify", disagreeing)
    assert done.out.startswith("40 pools\n")
    assert "does not rank as its checkpoint does" in complaint(SimpleNamespace(code=done.code, out="", err=done.err), 3)
    done = resift("verify", disagreeing, "--json")
    assert done.code == 3
    found = json.loads(done.out)
    assert found["agreement"]["tau"] < 0 < found["at_export"]["tau"]


def test_an_artifact_that_breaks_its_bounds_still_ranks(disagreeing):
    assert answered(resift("rerank", QUERY, "--model", disagreeing, given=LINES)).count("\n") == len(DOCUMENTS) + 1


def test_info_tells_what_runs(artifact, reranker):
    found = json.loads(answered(resift("info", artifact, "--threads", "1", "--max-length", "50", "--json")))
    assert found.keys() == {
        "artifact", "bytes", "model", "activation", "max_length", "variants", "forced", "agreement", "recipe", "made_with",
        "tested_onnxruntime", "runs", "machine", "versions", "embedded_models",
    }  # fmt: skip
    assert (found["artifact"], found["max_length"], found["activation"], found["forced"]) == (str(artifact), 50, "sigmoid", False)
    assert found["bytes"] == sum(path.stat().st_size for path in artifact.iterdir())
    assert found["runs"] == {"precision": "int8", "provider": "cpu", "threads": 1, "token_budget": reranker.resolved.token_budget}
    assert {variant["precision"] for variant in found["variants"]} == {"int8", "float32"}
    assert found["agreement"].keys() == {"int8", "float32"}
    assert found["versions"]["resift"] == version("resift")
    assert "ms-marco-minilm-l12" in found["embedded_models"]


def test_info_of_the_embedded_model_by_name_or_by_default():
    out = answered(resift("info"))
    assert out == answered(resift("info", "ms-marco-minilm-l12"))
    assert "  id: cross-encoder/ms-marco-MiniLM-L12-v2\n" in out
    assert "\nruns:\n  precision: int8\n" in out


@pytest.mark.parametrize("read", ["nothing", "one line"])
@posix
def test_a_reader_that_leaves_early_is_no_fault(artifact, read):
    long = [f"{number} {'water ' * 2000}" for number in range(60)]
    with running("rerank", QUERY, "--model", artifact) as process:
        if read == "nothing":
            process.stdout.close()
        process.stdin.write("\n".join(long).encode())
        process.stdin.close()
        if read == "one line":
            assert process.stdout.readline() == b"rank     score   line  document\n"
            process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.fixture
def interruptible():
    """Children take SIGINT even where this process was started with it ignored, as shells do for what runs behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("when", ["while it reads", "while it ranks"])
@pytest.mark.usefixtures("interruptible")
@posix
def test_an_interrupt_ends_it_with_130(when):
    documents = "".join(f"{number} {'the water of the sea ' * 40}\n" for number in range(20000)).encode()
    with running("rerank", QUERY) as process:
        # More than a pipe holds: once it is written, the command is reading. Ranking it all takes minutes.
        process.stdin.write(documents)
        if when == "while it ranks":
            process.stdin.close()
            time.sleep(3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        # Waited for before its standard input is closed, which would end the reading as well.
        assert process.wait() == 130
        assert (process.stderr.read(), process.stdout.read()) == (b"resift: interrupted\n", b"")


@posix
def test_a_terminal_without_documents_is_told_what_to_do(artifact):
    terminal, end = os.openpty()
    try:
        done = subprocess.run(
            [RESIFT, "rerank", QUERY, "--model", artifact], stdin=end, capture_output=True, timeout=TIMEOUT, check=False, text=True
        )
    finally:
        os.close(terminal)
        os.close(end)
    found = complaint(SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr))
    assert "no documents: name a FILE, or pipe documents in" in found


@pytest.mark.skipif(not FULL.exists(), reason=f"this system has no {FULL}")
def test_output_that_cannot_be_written_is_one_line(artifact):
    command = [RESIFT, "rerank", QUERY, "--model", artifact]
    with FULL.open("wb") as full:
        done = subprocess.run(command, input=LINES, stdout=full, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False)
    complaint(SimpleNamespace(code=done.returncode, out="", err=done.stderr.decode()))


def test_a_document_that_the_output_cannot_encode_is_no_traceback(artifact):
    done = resift("rerank", QUERY, "--model", artifact, given="é 🌊\n".encode(), PYTHONIOENCODING="ascii")
    assert "Traceback" not in done.err


@posix
@pytest.mark.parametrize("json_asked", [[], ["--json"]], ids=["table", "json"])
def test_a_query_that_is_not_utf_8_is_no_traceback(artifact, json_asked):
    command = [RESIFT, "rerank", b"\xff tides", "--model", artifact, *json_asked]
    done = subprocess.run(command, input=LINES, capture_output=True, timeout=TIMEOUT, check=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 1)


@posix
def test_a_closed_standard_input_is_no_traceback(artifact):
    command = ["sh", "-c", 'exec "$0" "$@" <&-', RESIFT, "rerank", QUERY, "--model", artifact]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False, text=True)
    complaint(SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr))


def test_export_without_torch_names_the_extra(checkpoint_of, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    done = resift("export", checkpoint_of("bert"), tmp_path / "out", PYTHONPATH=str(tmp_path / "hidden"))
    found = complaint(done)
    assert "No module named 'torch'" in found
    assert "pip install 'resift[export]'" in found
    assert not (tmp_path / "out").exists()


def test_nothing_but_export_needs_torch(artifact, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    assert answered(resift("rerank", QUERY, "--model", artifact, given=LINES, PYTHONPATH=str(tmp_path)))
    assert answered(resift("verify", artifact, PYTHONPATH=str(tmp_path)))


def test_export_of_nothing_is_one_line(tmp_path):
    done = resift("export", tmp_path / "none", tmp_path / "out")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"resift: '{tmp_path / 'none'}' is neither a folder nor a hub id")
    assert "Traceback" not in done.err
