"""Prometheus finds something for every panel and knows every name in the rules: `make test-ops`."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.server import ROOT
from tests.ops.three import NEEDS, Miners, eventually, white

HERE = ROOT / "build/prometheus/usr/bin/prometheus"
PROMETHEUS = shutil.which("prometheus") or (str(HERE) if HERE.exists() else None)
PANELS: list[dict[str, Any]] = [
    panel for panel in json.loads((ROOT / "ops/grafana/roadwork.json").read_text())["panels"] if panel["type"] != "row"
]

pytestmark = [
    *NEEDS,
    pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is fetched by make test-ops, on Debian"),
]


@pytest.fixture(scope="module")
def prometheus(miners: Miners, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Yield a client of a Prometheus that has scraped a server and its miners during valid and invalid requests."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((ROOT / "ops/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "5s", "evaluation_interval": "5s"}  # a scrape may take as long
    config["rule_files"] = [str(ROOT / "ops/alerts.yml")]
    ray, others = config["scrape_configs"]
    ray["file_sd_configs"][0]["files"] = [str(miners.folder / "ray/prom_metrics_service_discovery.json")]
    ray["file_sd_configs"][0]["refresh_interval"] = "1s"
    others["static_configs"][0]["targets"] = [f"127.0.0.1:{miners.first_port + 1000 + number}" for number in range(3)]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert PROMETHEUS is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10) as client:
            eventually(lambda: all_up(client), 30, "Prometheus reads Ray and three miners", miners)
            for _ in range(2):  # counters must grow between two scrapes
                for number in range(50):
                    files = {"file": white() if number % 10 else b"no picture"}
                    httpx.post(f"{miners.url}/v1/classify", files=files, timeout=20)
                assert miners.all_answer()
                # Ray exports metrics every ten seconds
                eventually(lambda: verdicts_read(client), 60, lambda: scrape_report(client, miners), miners)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def all_up(client: httpx.Client) -> bool:
    try:
        targets = client.get("/targets").json()["data"]["activeTargets"]
    except (httpx.TransportError, ValueError):  # it is starting
        return False
    return len(targets) >= 4 and all(target["health"] == "up" for target in targets)


def verdicts_read(client: httpx.Client) -> bool:
    return bool(found(client, "ray_roadwork_verdicts_total"))


def scrape_report(client: httpx.Client, miners: Miners) -> str:
    """Return Ray's scrape targets, their state, and the log of Ray's agent, as text."""
    targets = client.get("/targets").json()["data"]["activeTargets"]
    target_states = [f"{each['scrapeUrl']} {each['health']} {each['lastError']}" for each in targets]
    discovered = (miners.folder / "ray/prom_metrics_service_discovery.json").read_text()
    agent = (miners.folder / "ray/session_latest/logs/dashboard_agent.log").read_text(errors="replace")[-4000:]
    return "\n".join([discovered, *target_states, agent])


def found(client: httpx.Client, query: str) -> list[float]:
    reply = client.get("/query", params={"query": query.replace("$__rate_interval", "2m")}).json()
    assert reply["status"] == "success", reply
    return [float(each["value"][1]) for each in reply["data"]["result"]]


def test_every_panel_shows_data(prometheus: httpx.Client, miners: Miners) -> None:
    def empty() -> list[str]:
        return [
            f"{panel['title']}: {target['expr']}"
            for panel in PANELS
            for target in panel["targets"]
            if not [value for value in found(prometheus, target["expr"]) if value == value]  # NaN is none
        ]

    eventually(lambda: not empty(), 60, empty, miners)
    assert len(PANELS) > 20


def test_metrics_of_the_rules_exist_and_no_alert_fires(prometheus: httpx.Client, miners: Miners) -> None:
    rules = yaml.safe_load((ROOT / "ops/alerts.yml").read_text())["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"\b(?:ray_)?roadwork_[a-z_]+", rule["expr"])}

    def unknown() -> list[str]:
        known = prometheus.get("/label/__name__/values").json()["data"]
        return sorted(named - set(known) - MAY_BE_ABSENT)

    eventually(lambda: not unknown(), 60, unknown, miners)
    loaded = prometheus.get("/rules").json()["data"]["groups"][0]["rules"]
    assert {rule["health"] for rule in loaded} == {"ok"}
    assert [rule["name"] for rule in loaded if rule["state"] == "firing"] == []


MAY_BE_ABSENT = {"ray_roadwork_drift"}  # until there is a thousand answers to compare
