"""The images and the compose file agree with each other and with the files that they use."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.server import ROOT

IMAGES = {name: (ROOT / "ops" / name).read_text() for name in ("Dockerfile", "Dockerfile.cpu")}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "ops/compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def mounts(service: str) -> dict[str, str]:
    """Return what a service mounts, by its place in the container."""
    return {target: source for source, target, *_ in (each.split(":") for each in SERVICES[service]["volumes"])}


@pytest.mark.parametrize("image", IMAGES)
def test_images_install_locked_files_and_run_as_a_user(image: str) -> None:
    lines = IMAGES[image].replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", lines)
    assert len(installs) == 3 and all("--require-hashes" in each or "--no-deps " in each for each in installs)
    assert "--uid 10001 roadwork" in lines and lines.index("USER 10001") < lines.index("ENTRYPOINT")
    for path in re.findall(r"^COPY (?:--chown=\S+ )?(.*) \S+$", lines, flags=re.M):
        assert all((ROOT / each).exists() for each in path.split())


def test_the_cpu_image_has_a_lock_of_its_own_python() -> None:
    (lock,) = re.findall(r"--requirements (\S+)", IMAGES["Dockerfile.cpu"])
    pinned = (ROOT / lock).read_text()
    assert "onnxruntime==" in pinned and not re.search(r"^(torch|nvidia-\w+|pytest|bittensor)==", pinned, flags=re.M)
    (version,) = set(re.findall(r"python:?(3\.\d+)", IMAGES["Dockerfile.cpu"]))
    assert version == "3.13"


def test_ports_are_published_on_loopback_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8000:8000", "127.0.0.1:9090:9090", "127.0.0.1:3000:3000"]


def test_prometheus_reads_the_addresses_of_rays_metrics_and_grafana_the_panels() -> None:
    (user,) = {re.findall(r"--uid (\d+)", text)[0] for text in IMAGES.values()}
    assert SERVICES["prometheus"]["user"] == user and f"uid={user}" in COMPOSE["volumes"]["ray"]["driver_opts"]["o"]
    assert {SERVICES[name]["network_mode"] for name in ("prometheus", "grafana")} == {"service:server"}
    ray = next(target for target, source in mounts("server").items() if source == "ray")
    assert all(f"RAY_TMPDIR={ray}" in text for text in IMAGES.values())
    seen = next(target for target, source in mounts("prometheus").items() if source == "ray")
    scraped = yaml.safe_load((ROOT / "ops/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["file_sd_configs"][0]["files"] == [f"{seen}/ray/prom_metrics_service_discovery.json"]
    data = next(target for target, source in mounts("prometheus").items() if source == "prometheus")
    assert f"--storage.tsdb.path={data}" in SERVICES["prometheus"]["command"] and data in mounts("server")
    assert all(f" {data}" in text for text in IMAGES.values())
    provided = yaml.safe_load((ROOT / "ops/grafana/provisioning/dashboards/roadwork.yml").read_text())["providers"]
    shown = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(shown.parent) in [each["options"]["path"] for each in provided] and str(shown) in mounts("grafana")
    for source in (*mounts("prometheus").values(), *mounts("grafana").values()):
        assert not source.startswith(".") or (ROOT / "ops" / source).exists()


def test_the_variant_for_gpus_changes_the_image_alone() -> None:
    variant = yaml.safe_load((ROOT / "ops/compose.gpu.yaml").read_text())["services"]
    assert list(variant) == ["server"] and variant["server"]["gpus"] == "all"
    assert (ROOT / variant["server"]["build"]["dockerfile"]).is_file()
