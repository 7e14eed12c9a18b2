"""The builder: its arguments, and the profile that auto chooses."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments import app
from deployments.app import Args, build
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles import choice
from roadwork_serve.profiles.choice import ClusterGpus
from roadwork_serve.profiles.host_needs import check_host
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_kinds import STAGES


def profile_of(args: Args):
    return build(args)._bound_deployment.init_args[0]


def test_overrides_are_merged_into_the_profile():
    profile = profile_of(Args(profile="mini", overrides={"stages": {"video": None, "vlm": {"max_batch": 7}}}))
    assert profile.stages["vlm"].max_batch == 7
    assert "video" not in profile.stages


def test_the_journal_is_in_the_state_folder_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROADWORK_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    spec = profile_of(Args(profile="mini")).journal
    assert spec.url == f"sqlite:///{tmp_path}/state/journal/journal.db"
    assert (spec.media_folder, spec.spool_folder) == (
        f"{tmp_path}/state/journal/media",
        f"{tmp_path}/state/journal/spool",
    )
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    chosen = {"url": "sqlite:///here.db", "spool_folder": "$ROADWORK_STATE/elsewhere", "media_folder": "/srv/media"}
    spec = profile_of(Args(profile="mini", overrides={"journal": chosen})).journal
    assert (spec.url, spec.media_folder) == (f"sqlite:///{tmp_path}/here.db", "/srv/media")
    assert spec.spool_folder == f"{tmp_path}/state/elsewhere"
    assert spec.resolved() == spec


def test_a_start_names_the_command_that_continues_an_earlier_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("ROADWORK_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    build(Args(profile="mini"))
    assert "roadwork journal restore" not in caplog.text
    (tmp_path / "build/journal").mkdir(parents=True)
    (tmp_path / "build/journal/journal.db").touch()
    build(Args(profile="mini"))
    assert f"run `roadwork journal restore {tmp_path / 'build/journal'}`" in caplog.text
    caplog.clear()
    (tmp_path / "state/journal").mkdir()
    (tmp_path / "state/journal/journal.db").touch()
    build(Args(profile="mini"))
    assert "roadwork journal restore" not in caplog.text


def test_an_unknown_profile_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match="no-such"):
        build(Args(profile="no-such"))


def test_unknown_arguments_are_rejected():
    with pytest.raises(ValidationError):
        Args.model_validate({"profil": "mini"})


def cluster(monkeypatch: pytest.MonkeyPatch, *gib: float, **resources: float) -> None:
    """Fake a Ray cluster with one GPU of each size, and these resources, on a machine that lacks nothing."""
    monkeypatch.setattr(app, "missing_requirements", lambda profile, reading: [])
    monkeypatch.setattr(app, "check_host", lambda profile, memory_gib, cores: None)
    monkeypatch.setattr(app.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(app.ray, "cluster_resources", lambda: resources | ({"GPU": float(len(gib))} if gib else {}))
    monkeypatch.setattr(app, "cluster_gpus", lambda: ClusterGpus((gib,) if gib else ()))


def test_auto_logs_rays_resources_and_the_chosen_profile(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster(monkeypatch, CPU=2.0, memory=6 * 2**30)
    with caplog.at_level(logging.INFO, logger="ray.serve.roadwork"):
        assert profile_of(Args()).name == "cpu"
    assert "Ray reports CPUs: 2, GPUs: 0, memory for models: 6.0 GiB" in caplog.text
    assert "auto chose cpu: there is no GPU" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_auto_chooses_the_profile_for_the_gpus(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    cluster(monkeypatch, 22.0, CPU=8.0)
    monkeypatch.setattr(choice, "missing_requirements", lambda profile, reading: [])
    with caplog.at_level(logging.INFO, logger="ray.serve.roadwork"):
        assert profile_of(Args()).name == "gpu-24gb"
    assert "Engine qwen3-vl: 1 of up to 2 replicas fit on the GPUs" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_replicas_scale_up_where_the_gpus_have_room(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, 22.0, 22.0, CPU=8.0)
    ingress = build(Args(profile="gpu-24gb"))._bound_deployment
    profile, stages, _ = ingress.init_args
    assert profile.engines["qwen3-vl"].max_replicas == 2
    vlm = stages["vlm"]._bound_deployment
    ranged = vlm._deployment_config.autoscaling_config
    assert (ranged.min_replicas, ranged.max_replicas) == (1, 2)
    assert ranged.target_ongoing_requests == sum(profile.stages[name].slots for name in ("vlm", "reasoner", "video"))
    assert ranged.upscale_delay_s < ranged.downscale_delay_s
    assert stages["backbone"]._bound_deployment._deployment_config.autoscaling_config is None


def test_one_gpu_has_no_room_for_more_replicas(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, 22.0, CPU=8.0)
    _, stages, _ = build(Args(profile="gpu-24gb"))._bound_deployment.init_args
    for name in ("vlm", "reasoner", "video"):
        assert stages[name]._bound_deployment.num_replicas == 1
        assert stages[name]._bound_deployment._deployment_config.autoscaling_config is None


def test_a_requested_profile_logs_what_the_machine_lacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster(monkeypatch, 22.0, CPU=8.0)
    monkeypatch.setattr(app, "missing_requirements", lambda profile, reading: ["there is no C compiler"])
    monkeypatch.setattr(app, "check_host", lambda profile, memory_gib, cores: check_host(profile, 1.0, cores))
    profile_of(Args(profile="gpu-24gb"))
    assert "Profile gpu-24gb may not run here: there is no C compiler" in caplog.text
    assert "of memory on the host and 1.0 GiB are free" in caplog.text


def test_a_profile_that_names_gpus_requires_them_of_ray(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, 22.0, 22.0, CPU=8.0)
    with pytest.raises(ConfigError, match="no node of Ray offers the resource gpu_0"):
        build(Args(profile="gpu-2x24gb"))
    cluster(monkeypatch, 22.0, 22.0, CPU=8.0, gpu_0=1.0, gpu_1=1.0)
    _, stages, _ = build(Args(profile="gpu-2x24gb"))._bound_deployment.init_args
    assert stages["video"]._bound_deployment.ray_actor_options["resources"] == {"gpu_1": 0.3}


def test_a_requested_profile_is_tried_even_if_the_plan_rejects_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster(monkeypatch, 12.0, 12.0, CPU=8.0)
    profile = profile_of(Args(profile="gpu-24gb"))
    assert profile.engines["qwen3-vl"].max_replicas == 1
    assert "Profile gpu-24gb may not run here: a GPU of 12 GiB is" in caplog.text


def test_a_profile_that_reserves_more_than_available_logs_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster(monkeypatch, CPU=1.0)
    with caplog.at_level(logging.WARNING, logger="ray.serve.roadwork"):
        build(Args(profile="mini", overrides={"engines": {"qwen3-vl": {"device": "cuda", "num_gpus": 0.5}}}))
    assert "reserves 1.6 CPUs and there are 1" in caplog.text
    assert "reserves 0.5 GPUs and there are 0" in caplog.text


def test_replicas_get_the_path_of_the_key_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "keys.yaml").write_text("[]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROADWORK_KEYS_FILE", "keys.yaml")
    assert app._resolve_keys(load_profile("mini")).ingress.keys_file == str(tmp_path / "keys.yaml")
    named = load_profile("mini", {"ingress": {"keys_file": str(tmp_path / "keys.yaml")}})
    monkeypatch.setenv("ROADWORK_KEYS_FILE", "/no/such/file")
    assert app._resolve_keys(named) == named


@pytest.mark.parametrize("text", ["- {name: ann}", "not a list"])
def test_an_error_in_the_keys_prevents_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str):
    cluster(monkeypatch, CPU=2.0)
    (tmp_path / "keys.yaml").write_text(text)
    named = {"ingress": {"keys_file": str(tmp_path / "keys.yaml")}}
    with pytest.raises(ConfigError, match=r"keys\.yaml"):
        build(Args(profile="mini", overrides=named))
    monkeypatch.setenv("ROADWORK_KEYS", text)
    with pytest.raises(ConfigError, match="ROADWORK_KEYS"):
        build(Args(profile="mini"))


def test_auto_without_ray_uses_the_resources_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(app.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(app, "cluster_gpus", ClusterGpus)
    with caplog.at_level(logging.INFO, logger="ray.serve.roadwork"):
        build(Args())
    assert f"this machine has CPUs: {os.cpu_count()}, GPUs: 0, memory for models: unknown" in caplog.text


def test_without_models_auto_leaves_out_stages_that_need_them_and_a_named_profile_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster(monkeypatch, CPU=2.0)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert set(profile_of(Args()).stages) == set(STAGES)
    overrides = {"engines": {"molmo2": {"backend": "transformers"}}}
    assert set(profile_of(Args(overrides=overrides)).stages) == set(STAGES) - {"video"}
    assert "Stage video is left out: backend transformers needs torch, which is not installed" in caplog.text
    with pytest.raises(ConfigError, match=r"profile cpu cannot run here: .*roadwork-serve\[models\]"):
        build(Args(profile="cpu", overrides=overrides))


def test_choosing_mini_imports_no_torch():
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); "
        "from deployments.gpus import profile_for_gpus; from roadwork_serve.profiles.choice import ClusterGpus; "
        "profile_for_gpus(ClusterGpus(), {}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_shipped_configuration_is_valid_and_listens_on_loopback(monkeypatch: pytest.MonkeyPatch):
    cluster(monkeypatch, CPU=2.0)
    config = yaml.safe_load((Path(__file__).parents[2] / "serve_config.yaml").read_text())
    schema = ServeDeploySchema.model_validate(config)
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8000)
    (application,) = schema.applications
    assert application.name == "roadwork"
    assert profile_of(Args.model_validate(application.args)).name == "cpu"
    (ingress,) = application.deployments
    assert ingress.name == "Ingress" and ingress.user_config == {"policy": "profile", "audit": {"share": 0.02}}
