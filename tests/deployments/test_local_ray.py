"""Starting Ray without its dashboard, and the dashboard later."""

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import parameter
from ray._private import worker as ray_worker
from ray._private.node import Node

from deployments import local_ray
from deployments.local_ray import Dashboard, start_ray


class FakeNode:
    """A node of Ray whose dashboard starts when the test says so."""

    def __init__(self, url: str | None = "127.0.0.1:8265") -> None:
        self.webui_url: str | None = None
        self.go = threading.Event()
        self.threads: list[threading.Thread] = []
        self._url = url

    def start_api_server(self, *, include_dashboard: bool, raise_on_failure: bool) -> None:
        assert include_dashboard and not raise_on_failure
        self.threads.append(threading.current_thread())
        assert self.go.wait(10)
        self.webui_url = self._url


def test_ray_starts_without_what_a_server_has_no_use_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before, options = (parameter.RayParams, Node.start_api_server), dict[str, Any]()

    def init(**given: Any) -> None:
        options.update(given)
        params = parameter.RayParams()
        assert params.no_monitor and not params.include_log_monitor
        assert Node.start_api_server(None, include_dashboard=True, raise_on_failure=True) is None

    monkeypatch.setattr(ray, "init", init)
    start_ray({"GPU": 1.0}, dashboard=False)
    assert options == {"address": "local", "namespace": "serve", "resources": {"GPU": 1.0}}
    assert (parameter.RayParams, Node.start_api_server) == before


def test_a_ray_that_does_not_start_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (parameter.RayParams, Node.start_api_server)

    def init(**_: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match="no room"):
        start_ray(None, dashboard=True)
    assert (parameter.RayParams, Node.start_api_server) == before


def test_the_dashboard_starts_once_and_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    node, levels = FakeNode(), list[int]()
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray_worker, "_global_node", node)
    monkeypatch.setattr(local_ray, "lower_priority", levels.append)
    dashboard = start_ray(None, dashboard=True)
    assert not node.threads
    dashboard.start()
    dashboard.start()
    node.go.set()
    assert dashboard.url() == dashboard.url() == "http://127.0.0.1:8265"
    (thread,) = node.threads
    assert levels == [10] and thread is not threading.current_thread() and thread.daemon
    assert thread.is_alive()  # the kernel kills the dashboard with the thread that started it


def test_it_says_where_to_look_if_the_dashboard_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ray, "lower_priority", lambda _: None)
    node = FakeNode(url=None)
    node.go.set()
    assert "dashboard.log" in Dashboard(node=node).url()


def test_nobody_waits_for_one_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: raised.set())
    monkeypatch.setattr(local_ray, "lower_priority", lambda _: None)

    def fail(**_: Any) -> None:
        raise ValueError("the port is taken")

    assert "dashboard.log" in Dashboard(node=SimpleNamespace(start_api_server=fail)).url()
    assert raised.wait(10)


def test_nothing_starts_while_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("ray._private.services")
    monkeypatch.setattr(logger, "disabled", False)
    node = FakeNode()
    dashboard = Dashboard(node=node)
    dashboard.stop()
    dashboard.start()
    assert node.threads == [] and logger.disabled


@pytest.mark.parametrize(("url", "said"), [("10.0.0.1:8265", "http://10.0.0.1:8265"), (None, "off"), ("", "off")])
def test_a_running_cluster_has_its_own_or_none(url: str | None, said: str) -> None:
    threads = threading.active_count()
    dashboard = Dashboard(url)
    dashboard.start()
    assert dashboard.url() == said and threading.active_count() == threads
