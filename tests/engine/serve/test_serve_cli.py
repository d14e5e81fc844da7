"""`resift serve` as a process: what it needs, what it says, and how it ends."""

from __future__ import annotations

import os
import shlex
import signal
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from tests.support import children, tiny
from tests.support.commands import QUERY, RESIFT, Log, complaint, resift, running

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

DOCUMENTS = tiny.texts()[1:40:2]
posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


UNUSED = ssl.create_default_context()
"""What httpx would otherwise make for each request, though none is encrypted: it takes longer than the request."""


@pytest.fixture
def started(artifact, interruptible):
    """A running `resift serve` of the tiny artifact: its process, log and address."""
    with running("serve", "--model", artifact, "--port", "0", "--max-waiting-seconds", "600") as process:
        log = Log(process)
        yield process, log, "http://127.0.0.1:{port}".format(**log.wait("listening"))


@posix
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_in_the_middle_of_load_loses_no_accepted_request(started, reranker, sent):
    process, log, url = started
    expected = [result.index for result in reranker.rerank(QUERY, DOCUMENTS)]

    answers = count(1)

    def ask(number):
        try:
            reply = httpx.post(f"{url}/rerank", json={"query": QUERY, "texts": DOCUMENTS}, timeout=children.SECONDS, verify=UNUSED)
        except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
            return "not read"  # came when no one listened any more
        if reply.status_code == 503:
            return "refused"
        assert reply.status_code == 200
        assert [row["index"] for row in reply.json()] == expected
        if next(answers) == 20:
            process.send_signal(getattr(signal, sent))
        return "answered"

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(120)))
    assert process.wait(children.SECONDS) == 0
    assert log.wait("stopped")["unanswered"] == 0
    assert found.count("answered") >= 20
    assert set(found) > {"answered"}
    # Every request that the server read was answered, and every answer arrived.
    told = [line["status"] for line in log.find("request")]
    assert (told.count(200), told.count(503)) == (found.count("answered"), found.count("refused"))
    assert set(told) <= {200, 503}


@posix
def test_a_second_signal_refuses_what_is_left_and_says_how_much(started):
    process, log, url = started
    texts = [f"{text} {number}" for number in range(100) for text in DOCUMENTS[:10]]

    def is_ready():
        try:
            return httpx.get(f"{url}/ready", verify=UNUSED).status_code == 200
        except httpx.TransportError:  # it answered the request before, and has ended
            return False

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(httpx.post, f"{url}/rerank", json={"query": QUERY, "texts": texts}, timeout=children.SECONDS)
        while b"resift_requests_in_progress 1" not in httpx.get(f"{url}/metrics", verify=UNUSED).content and not asked.done():
            pass
        process.send_signal(signal.SIGTERM)
        while not asked.done() and is_ready():
            pass
        process.send_signal(signal.SIGTERM)
        code = process.wait(children.SECONDS)
    assert (asked.result().status_code, code, log.wait("stopped")["unanswered"]) in ((200, 0, 0), (503, 1, 1))
    assert not log.find("unexpected error")


@posix
def test_a_server_that_ignores_sighup_goes_on(artifact):
    command = f"trap '' HUP; exec {shlex.quote(str(RESIFT))} serve --model {shlex.quote(str(artifact))} --port 0"
    with subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE) as process:
        try:
            log = Log(process)
            url = "http://127.0.0.1:{port}".format(**log.wait("listening"))
            process.send_signal(signal.SIGHUP)
            reply = httpx.post(f"{url}/rerank", json={"query": QUERY, "texts": DOCUMENTS}, timeout=children.SECONDS, verify=UNUSED)
            assert reply.status_code == 200
        finally:
            process.terminate()
            assert process.wait(children.SECONDS) == 0


def test_a_port_in_use_is_named(started, artifact):
    _, _, url = started
    port = url.rpartition(":")[2]
    assert f"cannot listen on 127.0.0.1 port {port}: " in complaint(resift("serve", "--model", artifact, "--port", port))


def test_what_cannot_be_served_is_named(artifact, tmp_path):
    assert f"no artifact '{tmp_path / 'none'}'" in complaint(resift("serve", "--model", tmp_path / "none"))
    assert "is given twice" in complaint(resift("serve", "--model", artifact, "--model", artifact))
    assert "no model 'b'" in complaint(resift("serve", "--model", artifact, "--alias", "a=b"))
    assert "can be reached from other machines" in complaint(resift("serve", "--model", artifact, "--host", "0.0.0.0"))
    assert str(tmp_path / "none.toml") in complaint(resift("serve", "--config", tmp_path / "none.toml"))


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "prometheus_client"])
def test_a_missing_part_is_named_with_its_extra(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from resift.cli.main import main; sys.exit(main(['serve']))"
    done = children.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"resift: `resift serve` needs {missing}; install it with: pip install 'resift[serve]'\n"
