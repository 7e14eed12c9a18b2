"""The builder: its arguments, and the profile that auto chooses."""

import logging
import os
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments import app
from deployments.app import Args, build
from roadwork_serve.errors import ConfigError


def profile_of(args: Args):
    return build(args)._bound_deployment.init_args[0]


def test_overrides_are_merged_into_the_profile():
    profile = profile_of(Args(profile="mini", overrides={"stages": {"video": None, "vlm": {"max_batch": 7}}}))
    assert profile.stages["vlm"].max_batch == 7
    assert "video" not in profile.stages


def test_a_profile_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="no-such"):
        build(Args(profile="no-such"))


def test_unknown_arguments_are_refused():
    with pytest.raises(ValidationError):
        Args.model_validate({"profil": "mini"})


def test_auto_says_what_ray_reports_and_what_it_chose(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(app.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(app.ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0, "memory": 6 * 2**30})
    with caplog.at_level(logging.INFO, logger="ray.serve.roadwork"):
        assert profile_of(Args()).name == "mini"
    assert "Ray reports CPUs: 2, GPUs: 1, memory for models: 6.0 GiB" in caplog.text
    assert "chose mini" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_profile_that_books_more_than_there_is_gets_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(app.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(app.ray, "cluster_resources", lambda: {"CPU": 1.0})
    with caplog.at_level(logging.WARNING, logger="ray.serve.roadwork"):
        build(Args(profile="mini", overrides={"engines": {"qwen3-vl": {"num_gpus": 0.5}}}))
    assert "books 1.5 CPUs and there are 1" in caplog.text
    assert "books 0.5 GPUs and there are 0" in caplog.text


def test_auto_without_ray_counts_this_machine(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(app.ray, "is_initialized", lambda: False)
    with caplog.at_level(logging.INFO, logger="ray.serve.roadwork"):
        build(Args())
    assert f"this machine has CPUs: {os.cpu_count()}, GPUs: 0, memory for models: unknown" in caplog.text


def test_the_configuration_that_ships_is_valid_and_stays_on_loopback():
    config = yaml.safe_load((Path(__file__).parents[2] / "serve_config.yaml").read_text())
    schema = ServeDeploySchema.model_validate(config)
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8000)
    (application,) = schema.applications
    assert application.name == "roadwork"
    assert profile_of(Args.model_validate(application.args)).name == "mini"
    (ingress,) = application.deployments
    assert ingress.name == "Ingress" and ingress.user_config == {"policy": "profile"}
