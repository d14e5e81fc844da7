"""What operators set up around a server: metrics, a path behind a proxy, a Unix socket, and the files in examples/deploy."""

from __future__ import annotations

import json
import re
import socket

import pytest

from resift import Reranker
from resift.errors import InputError
from tests.support import children, tiny
from tests.support.commands import complaint, resift, running
from tests.support.pages import REPOSITORY

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import httpx
from prometheus_client.parser import text_string_to_metric_families

from resift.serve.config import PREFIX, Config, flag
from tests.support.serving import serving

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:9:2]
TEI = {"query": QUERY, "texts": DOCUMENTS}
DEPLOY = REPOSITORY / "examples" / "deploy"
posix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="has no Unix sockets")


def test_clients_cannot_make_label_values(reranker):
    with serving({"org/tiny": reranker}, {"nick": "org/tiny"}) as served:
        for name in (None, "org/tiny", "nick", *(f"made up {number}" for number in range(9))):
            assert served.post("/rerank", TEI | {"model": name}).status_code == 200
        served.client.get("/made-up")
        assert served.post("/rerank", TEI | {"texts": []}).status_code == 400
    # A request is counted after its answer: all are once the server has ended.
    text = served.service.metrics.text().decode()
    assert set(re.findall(r'model="([^"]*)"', text)) == {"", "org/tiny"}
    assert served.metric("resift_requests_total", model="org/tiny", status="200") == 12
    assert served.metric("resift_requests_total", model="", status="400") == 1


def test_models_are_counted_apart(reranker, one_at_a_time):
    with serving({"first": reranker, "second": one_at_a_time}) as served:
        assert served.post("/rerank", TEI).status_code == 200
        assert served.post("/rerank", TEI | {"model": "second"}).status_code == 200
        pair = {"text_1": [QUERY, "bread"], "text_2": DOCUMENTS[:2], "model": "second"}
        assert served.post("/score", pair).status_code == 200
        assert served.post("/rerank", TEI | {"model": "third"}).status_code == 404
    assert [served.metric("te_request_duration_count", model=name) for name in ("first", "second")] == [1, 2]
    assert served.metric("resift_request_documents_sum", model="second") == len(DOCUMENTS) + 2
    assert served.metric("resift_requests_total", model="", status="404") == 1


def test_what_was_known_of_documents_is_in_the_log_and_in_the_metrics(split_artifact, log_records):
    with Reranker.load(split_artifact, plan="first-look") as split, serving({"org/tiny": split}) as served:
        known = ("prepared", "cached", "new")
        before = [served.metric("resift_split_documents_total", states=states) for states in known]
        for count in (3, 4):
            assert served.post("/rerank", TEI | {"texts": DOCUMENTS[:count]}).status_code == 200
        assert served.post("/score", {"text_1": [QUERY, "bread"], "text_2": DOCUMENTS[2:4]}).status_code == 200
        after = [served.metric("resift_split_documents_total", states=states) for states in known]
    found = [fields.get("states") for fields in served.logged(log_records)]
    assert found == [
        {"prepared": 0, "cached": 0, "new": 3},
        {"prepared": 0, "cached": 3, "new": 1},
        None,  # scores are those of the full graph
    ]
    assert [now - then for now, then in zip(after, before, strict=True)] == [0, 3, 4]


def test_a_log_of_a_model_without_a_split_graph_says_nothing_of_states(reranker, log_records):
    with serving({"org/tiny": reranker}) as served:
        assert served.post("/rerank", TEI).status_code == 200
    assert ["states" in fields for fields in served.logged(log_records)] == [False]


def test_metrics_need_a_key_unless_they_are_open(reranker):
    for is_open, status in ((False, 401), (True, 200)):
        with serving({"tiny": reranker}, api_key="k", open_metrics=is_open) as served:
            assert served.client.get("/metrics").status_code == status
            assert served.client.get("/metrics", headers={"authorization": "Bearer k"}).status_code == 200
            assert served.client.get("/info").status_code == 401
            documented = {path: each.get("get") for path, each in served.client.get("/openapi.json").json()["paths"].items()}
            assert ("401" in documented["/metrics"]["responses"], documented["/metrics"].get("security")) == (
                (False, []) if is_open else (True, None)
            )
            assert documented["/health"]["security"] == []
            assert "security" not in documented["/info"]


def test_a_root_path_may_be_left_or_taken_away_by_the_proxy(reranker):
    with serving({"tiny": reranker}, root_path="/ranker") as served:
        for path in ("/rerank", "/ranker/rerank", "/ranker/rerank/"):
            assert served.post(path, TEI).status_code == 200
        for path in ("/ranker/health", "/health", "/ranker", "/ranker/", "/ranker/page/page.js"):
            assert served.client.get(path).status_code == 200
        assert served.client.get("/rankers/health").status_code == 404
        assert served.client.get("/ranker/ranker/health").status_code == 404
        assert served.client.get("/openapi.json").json()["servers"] == [{"url": "/ranker"}]
        page = served.client.get("/docs").text
        assert 'href="/ranker/openapi.json"' in page
        assert "curl -s HOST/ranker/v2/rerank " in page
    assert served.metric("resift_requests_total", api="tei", status="200") == 3


@pytest.mark.parametrize("root", ["/v1", "/health", "/page"])
def test_a_root_path_that_hides_a_path_is_named(reranker, root):
    with (
        pytest.raises(InputError, match=f"--root-path {root} is the beginning of {root}"),
        serving({"t": reranker}, root_path=root),
    ):
        pass


def ask(path):
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://server", timeout=children.SECONDS) as client:
        return client.post("/rerank", json=TEI)


@pytest.fixture
def short(tmp_path_factory):
    """A path for a socket, short enough for one."""
    return tmp_path_factory.mktemp("s") / "socket"


@posix
def test_a_server_on_a_unix_socket(artifact, short, reranker):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(short))  # by a server that was killed
    with running("serve", "--model", artifact, "--uds", short, "--host", "0.0.0.0") as process:
        told = json.loads(process.stderr.readline())
        assert (told["event"], told["uds"], "port" in told) == ("listening", str(short), False)
        reply = ask(short)
        assert [row["index"] for row in reply.json()] == [result.index for result in reranker.rerank(QUERY, DOCUMENTS)]
        assert "cannot listen on" in complaint(resift("serve", "--model", artifact, "--uds", short))
        assert ask(short).status_code == 200
        process.terminate()
        assert process.wait(children.SECONDS) == 0
    assert not short.exists()


@posix
def test_a_path_that_can_be_no_socket_is_named(tmp_path):
    from resift.serve.unix_socket import listening

    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "none" / "socket", tmp_path / ("x" * 200), "\0"):
        with pytest.raises(InputError, match="cannot listen on"), listening(str(path), 1):
            pass
    assert (tmp_path / "file").read_text() == "kept"


@posix
def test_a_socket_that_another_server_has_taken_over_is_not_removed(short):
    from resift.serve.unix_socket import listening

    with listening(str(short), 1):
        short.rename(short.with_name("old"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(str(short))
    assert short.exists()


# Files of examples/deploy


def kubernetes():
    yaml = pytest.importorskip("yaml")
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def compose():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["resift"]


def check_environment(variables):
    """Each is a setting of the server with a value that it takes, or another program's."""
    own = {name: str(value) for name, value in variables.items() if name.startswith(PREFIX)}
    config = Config.gather({}, own)
    assert set(variables) - set(own) <= {"HF_HOME", "HF_HUB_OFFLINE"}
    return config


def test_the_kubernetes_manifest_is_of_this_server(reranker):
    pod = kubernetes()["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    config = check_environment({each["name"]: each["value"] for each in container["env"]})
    [port] = container["ports"]
    assert port["containerPort"] == config.port
    with serving({"tiny": reranker}) as served:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == port["name"]
            assert served.client.get(asked["path"]).status_code in (200, 503)
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/ready"
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= waits + config.shutdown_seconds + 2
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert set(container["resources"]) == {"requests", "limits"}
    mounted = {each["mountPath"]: each for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert {each["name"] for each in mounted.values()} == set(volumes)
    assert mounted["/models"]["readOnly"]
    assert all(model.startswith("/models/") for model in config.model)
    assert config.api_key_file.startswith("/keys/")
    keys = kubernetes()["Secret"]["stringData"]
    assert set(keys) == {config.api_key_file.removeprefix("/keys/")}
    service = kubernetes()["Service"]["spec"]
    assert service["ports"][0]["targetPort"] == port["name"]
    labels = kubernetes()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (service["selector"], kubernetes()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()


def test_the_keys_of_the_examples_can_be_read(file):
    from resift.serve.keys import read_allowances

    [content] = kubernetes()["Secret"]["stringData"].values()
    assert set(read_allowances(str(file(content.encode(), "keys.toml")))) == {"search", "batch"}
    assert set(read_allowances(str(DEPLOY / "keys" / "keys.toml"))) == {"search", "batch"}


def test_the_compose_file_is_of_this_server():
    service = compose()
    config = check_environment(service["environment"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert float(service["stop_grace_period"].removesuffix("s")) > config.shutdown_seconds
    targets = {each["target"]: each for each in service["volumes"]}
    assert targets["/models"]["read_only"]
    folder, _, name = config.api_key_file.rpartition("/")
    assert (DEPLOY / targets[folder]["source"] / name).is_file()


def test_the_dashboard_asks_for_metrics_that_exist(reranker):
    panels = json.loads((DEPLOY / "dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > 10
    with serving({"tiny": reranker}) as served:
        assert served.post("/rerank", TEI).status_code == 200
        assert served.post("/rerank", TEI | {"texts": []}).status_code == 400
    served.service.metrics.count_closed("made room")
    families = list(text_string_to_metric_families(served.service.metrics.text().decode()))
    samples = {sample.name: (family.type, set(sample.labels)) for family in families for sample in family.samples}
    for expression in expressions:
        named = re.findall(r"(?<!\w)((?:resift|te|process)_\w+)(?:\{([^}]*)\})?", expression)
        assert named, expression
        for name, selector in named:
            assert name in samples, name
            kind, labels = samples[name]
            assert set(re.findall(r"(\w+)=~?", selector)) <= labels | {"job", "instance"}, (name, selector)
            assert (kind != "gauge") == (f"rate({name}" in expression), expression
        assert ("_bucket{" in expression) == expression.startswith("histogram_quantile(") == ("by (le" in expression), expression


def test_the_panels_of_the_dashboard_stand_side_by_side():
    panels = json.loads((DEPLOY / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (column, row)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24


def test_the_operations_page_names_every_metric_and_no_other(reranker):
    with serving({"tiny": reranker}) as served:
        text = served.client.get("/metrics").text
    have = {name for name in re.findall(r"^# TYPE ((?:resift|te)_\w+)", text, re.MULTILINE) if not name.endswith("_created")}
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`((?:resift|te)_\w+)`", page)) == have


def test_the_dockerfile_is_pinned_and_needs_no_buildkit():
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert len(bases) > 1
    assert all(re.fullmatch(r"python:3\.\d+-slim@sha256:[0-9a-f]{64}", base) for base in bases)
    assert len(set(bases)) == 1
    assert not any("--mount" in line or line.startswith("# syntax") or "<<" in line for line in lines)
    assert any("cyclonedx-py" in line for line in lines)


def test_options_of_the_operations_page_are_told_in_help():
    told = resift("serve", "--help").out
    for name in ("api_key_file", "open_metrics", "root_path", "uds"):
        assert flag(name) in told
