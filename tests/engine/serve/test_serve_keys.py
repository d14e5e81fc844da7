"""Keys: several of them, each with limits of its own, in a file that is read again when it changes."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from resift.errors import InputError
from tests.support import tiny

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from starlette.datastructures import Headers

from resift.serve import logs
from resift.serve.config import Config
from resift.serve.keys import Keys, read_allowances
from resift.serve.request import Refusal
from tests.support.serving import serving

BODY = {"query": "how do tides work", "documents": tiny.texts()[1:9:2]}
TWO = b'[search]\nkey = "s-1"\n[batch]\nkey = ["b-1", "b-2"]\nmax_concurrent_requests = 1\ndocuments_per_minute = 60\n'


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def replaced(path, content: bytes) -> None:
    """Another file in its place, as editors and Kubernetes put it there."""
    new = path.with_name("new")
    new.write_bytes(content)
    os.replace(new, path)  # noqa: PTH105 - what is done


@pytest.fixture
def keys(file):
    """keys(content): Keys of such a file, its path, and its clock, a list of one number."""

    def make(content):
        path, clock = file(content, "keys.toml"), [0.0]
        return Keys(Config(api_key_file=str(path)), lambda: clock[0]), path, clock

    return make


def holder(keys, key):
    return keys.find(Headers(bearer(key))).holder


def refused(work, reason="busy"):
    with pytest.raises(Refusal) as caught:
        work()
    assert caught.value.reason == reason
    return caught.value


def test_each_key_has_its_account(keys):
    found, _, _ = keys(TWO)
    assert [holder(found, key) for key in ("s-1", "b-1", "b-2")] == ["search", "batch", "batch"]
    for wrong in ({}, bearer("s-2"), bearer(""), bearer("s-1 b-1"), {"authorization": "Basic s-1"}):
        refused(lambda wrong=wrong: found.find(Headers(wrong)), "key")


def test_requests_at_once_are_limited_by_key(keys):
    found, _, _ = keys(TWO)
    account = found.find(Headers(bearer("b-1")))
    with account.request():
        assert refused(found.find(Headers(bearer("b-2"))).request().__enter__).retry_after == 1
        with found.find(Headers(bearer("s-1"))).request():
            pass
    with account.request():
        pass


def test_documents_are_limited_by_the_minute(keys):
    found, _, clock = keys(TWO)
    account = found.find(Headers(bearer("b-1")))
    account.spend(59)
    account.spend(1000)  # is allowed, and has to be waited for
    assert refused(lambda: account.spend(1)).retry_after == 60
    clock[0] = 999.0
    assert refused(lambda: account.spend(1)).retry_after == 1  # 1059 - 999 are a minute's
    clock[0] = 999.5
    account.spend(1)
    clock[0] = 5000.0
    account.spend(60)
    refused(lambda: account.spend(1))
    found.find(Headers(bearer("s-1"))).spend(10**9)


def test_a_changed_file_counts_from_the_next_request_on(keys):
    found, path, _ = keys(TWO)
    account = found.find(Headers(bearer("b-1")))
    account.spend(60)
    replaced(path, b'[batch]\nkey = ["b-2", "b-3"]\ndocuments_per_minute = 60\n[new]\nkey = "n"\n')
    assert [holder(found, key) for key in ("n", "b-2", "b-3")] == ["new", "batch", "batch"]
    for gone in ("s-1", "b-1"):
        refused(lambda gone=gone: found.find(Headers(bearer(gone))), "key")
    refused(lambda: found.find(Headers(bearer("b-3"))).spend(1))  # a new key is no new minute


@pytest.mark.parametrize("content", [b"[batch", b"", b'[batch]\nkey = ""\n', None])
def test_a_file_that_cannot_be_used_leaves_the_keys_as_they_are_and_is_logged_once(keys, content, capfd):
    logs.configure("info")
    found, path, _ = keys(TWO)
    if content is None:
        path.unlink()
    else:
        replaced(path, content)
    assert [holder(found, key) for key in ("s-1", "b-1")] == ["search", "batch"]
    [line] = map(json.loads, capfd.readouterr().err.splitlines())
    assert (line["event"], line["level"], line["kept"]) == ("keys not read", "error", ["search", "batch"])
    assert str(path) in line["message"]
    replaced(path, b'[last]\nkey = "l"\n')
    assert holder(found, "l") == "last"
    [line] = map(json.loads, capfd.readouterr().err.splitlines())
    assert (line["event"], line["holders"]) == ("keys read", ["last"])
    logs.LOGGER.handlers.clear()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no keys; expected a table with `key`"),
        (b'key = "geheim"', "key: Expected `object`, got `str`"),
        (b'[a]\nkey = ""', "length >= 1"),
        (b"[a]\nkey = []", "length >= 1"),
        (b'[a]\nkey = " geheim"', "a has a key that no header can carry; expected printable ASCII"),
        (b'[a]\nkey = ["geheim", "gehe\\nim"]', "a has a key that no header can carry; expected printable ASCII"),
        (b"[a]\nmax_concurrent_requests = 1", "missing required field `key`"),
        (b'[a]\nkey = "geheim"\nmax_concurrent_requests = 0', "`int` >= 1"),
        (b'[a]\nkey = "geheim"\nlimit = 1', "unknown field `limit`"),
        (b'["a b"]\nkey = "geheim"', "a table 'a b'; expected a name of at most 64 letters"),
        (b'[a]\nkey = "geheim"\n[b]\nkey = ["other", "geheim"]', "has a key twice, in a and b; expected each key once"),
        (b'[a]\nkey = ["geheim", "geheim"]', "has a key twice, in a; expected each key once"),
    ],
)
def test_what_is_no_file_of_keys_is_named_without_any_key(file, content, said):
    path = file(content, "keys.toml")
    with pytest.raises(InputError) as caught:
        read_allowances(str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_the_server_asks_for_a_key_of_the_file(reranker, file, capfd):
    path = file(TWO, "keys.toml")
    logs.configure("info")
    with serving({"tiny": reranker}, api_key_file=str(path)) as served:
        assert served.post("/v2/rerank", BODY).status_code == 401
        assert served.client.get("/info").status_code == 401
        for key in ("s-1", "b-2"):
            assert served.post("/v2/rerank", BODY, headers=bearer(key)).status_code == 200
        replies = [served.post("/v2/rerank", BODY | {"documents": ["a"] * 60}, headers=bearer("b-1")) for _ in range(2)]
        assert [reply.status_code for reply in replies] == [200, 429]
        assert 1 <= int(replies[1].headers["retry-after"]) <= 60
        assert served.post("/v2/rerank", BODY, headers=bearer("s-1")).status_code == 200
        assert served.client.get("/openapi.json").json()["security"] == [{"key": []}]
        assert b'data-key="required"' in served.client.get("/").content
        replaced(path, b'[search]\nkey = "s-2"\n')
        assert [served.post("/v2/rerank", BODY, headers=bearer(key)).status_code for key in ("s-1", "s-2")] == [401, 200]
    logs.LOGGER.handlers.clear()
    said = capfd.readouterr().err
    asked = [line.get("key") for line in map(json.loads, said.splitlines()) if line.get("status") == 200 and "documents" in line]
    assert asked == ["search", "batch", "batch", "search", "search"]
    assert not any(key in said for key in ("s-1", "b-1", "b-2", "s-2"))


@pytest.mark.parametrize(("is_shared", "owners"), [(False, ["search", "batch", "batch"]), (True, ["", "", ""])])
def test_holders_of_keys_have_document_caches_of_their_own(reranker, file, monkeypatch, is_shared, owners):
    seen, submit = [], reranker.submit_encoded
    monkeypatch.setattr(reranker, "submit_encoded", lambda call: seen.append(call.states_owner) or submit(call))
    path = str(file(TWO, "keys.toml"))
    with serving({"tiny": reranker}, api_key_file=path, shared_document_cache=is_shared) as served:
        for key in ("s-1", "b-1", "b-2"):
            assert served.post("/v2/rerank", BODY, headers=bearer(key)).status_code == 200
    assert seen[-3:] == owners


def test_more_requests_at_once_than_a_key_may_have_are_429(one_at_a_time, gate, file):
    opened, begun, _ = gate
    with (
        serving({"tiny": one_at_a_time}, api_key_file=str(file(TWO, "keys.toml"))) as served,
        ThreadPoolExecutor(2) as threads,
    ):
        assert begun.wait(60)  # the warm-up's first batch is held
        first = threads.submit(served.post, "/v2/rerank", BODY, headers=bearer("b-1"))
        while not served.service.admission.requests:
            pass
        assert served.post("/v2/rerank", BODY, headers=bearer("b-2")).status_code == 429
        other = threads.submit(served.post, "/v2/rerank", BODY, headers=bearer("s-1"))
        opened.set()
        assert (first.result().status_code, other.result().status_code) == (200, 200)


def test_one_way_to_give_keys(file):
    path = str(file(TWO, "keys.toml"))
    with pytest.raises(InputError, match="--api-key and --api-key-file are both given"):
        Config.gather({"api_key": "k", "api_key_file": path}, {})
    assert Config.gather({"api_key_file": path, "host": "0.0.0.0"}, {}).is_keyed
