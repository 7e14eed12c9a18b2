"""`roadwork plan`, on this machine without a GPU and on made-up ones."""

import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner, Result

from roadwork_serve.cli.main import app
from tests.fake_nvml import H100, RTX_3060, RTX_3090, RTX_4090, FakeGpu, fake_nvml

REQUIREMENTS = "roadwork_serve.profiles.requirements"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_plan_prints_the_memory_of_each_engine_on_each_gpu() -> None:
    result = run("plan", "--profile", "gpu-24gb")
    assert result.exit_code == 0, result.output
    rows: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        if line.strip():
            rows.setdefault(line.split()[0], line.split()[1:])
    assert rows["qwen3-vl"][:2] == ["9.86", "3.00"]
    assert float(rows["free"][0]) == pytest.approx(22 - 13.94, abs=0.02)
    assert "GPU 0, 22 GiB, 0.65 of it reserved" in result.stdout
    assert rows["signs"] == ["10", "200", "30", "600"]
    assert "qwen3-vl: the cache holds 10.7 prompts of full context, and 36 may run at once" in result.stdout


def test_plan_uses_the_gpus_given() -> None:
    result = run("plan", "--profile", "gpu-24gb", "--gpu", 22, "--gpu", 23.6)
    assert result.exit_code == 0, result.output
    assert "GPU 1, 23.6 GiB, 0 of it reserved" in result.stdout
    assert "Largest number of replicas: qwen3-vl 2." in result.stdout


def test_plan_rejects_a_profile_that_does_not_fit_and_names_the_engine() -> None:
    result = run("plan", "--profile", "gpu-80gb", "--gpu", 24)
    assert result.exit_code == 2
    assert "shrink engines.qwen3-vl, which needs 19.8 GiB" in result.stderr
    assert "Traceback" not in result.output


def test_plan_of_a_profile_without_gpus_reports_that_none_are_used() -> None:
    result = run("plan")
    assert result.exit_code == 0
    assert "No engine of this profile uses a GPU" in result.stdout


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake vLLM, a compiler, 64 GiB and 16 cores."""
    monkeypatch.setattr(f"{REQUIREMENTS}.find_spec", lambda name: object())
    monkeypatch.setattr(f"{REQUIREMENTS}._missing_for_triton", lambda environment: [])
    monkeypatch.setattr("roadwork_serve.free_memory.free_ram", lambda: 64 * 2**30)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def plan_on(monkeypatch: pytest.MonkeyPatch, profile: str, *gpus: FakeGpu, **driver: object) -> Result:
    nvml = fake_nvml(*gpus, names={812: "/usr/lib/xorg/Xorg"}, **driver)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return run("plan", "--profile", profile)


DESKTOP = replace(RTX_4090, desktop={812: 1.0})


@pytest.mark.parametrize(
    ("gpus", "chosen"),
    [
        ((DESKTOP,), "gpu-24gb."),
        ((RTX_3090,), "gpu-24gb."),
        ((RTX_4090, RTX_4090), "gpu-2x24gb; on GPU 0: qwen3-vl; on GPU 1: qwen3-vl-thinking, molmo2."),
        ((H100,), "gpu-80gb."),
        ((RTX_3060, RTX_4090), "gpu-24gb; on GPU 1: qwen3-vl."),
    ],
)
@pytest.mark.usefixtures("able")
def test_auto_plans_the_profile_for_the_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[FakeGpu, ...], chosen: str
) -> None:
    result = plan_on(monkeypatch, "auto", *gpus)
    assert result.exit_code == 0, result.output
    assert f"Profile auto chose {chosen}" in result.stdout
    named = plan_on(monkeypatch, chosen.split(";")[0].rstrip("."), *gpus)
    assert named.exit_code == (2 if "3060" in gpus[0].name else 0), named.output


@pytest.mark.usefixtures("able")
def test_the_memory_of_a_desktop_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    result = plan_on(monkeypatch, "gpu-24gb", DESKTOP)
    assert result.exit_code == 0, result.output
    assert "GPU 0, NVIDIA GeForce RTX 4090: 22.6 of 23.6 GiB free, held by Xorg 812 (1.0 GiB)" in result.stdout
    assert "GPU 0, 22.6 GiB" in result.stdout and "ingress and decoding" in result.stdout


@pytest.mark.usefixtures("able")
def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{REQUIREMENTS}.find_spec", lambda name: None)
    monkeypatch.setattr(f"{REQUIREMENTS}._missing_for_triton", lambda environment: ["there is no C compiler"])
    monkeypatch.setattr("roadwork_serve.free_memory.free_ram", lambda: 2**30)
    result = plan_on(monkeypatch, "gpu-80gb", RTX_3090, driver="570.1", cuda=12080)
    assert result.exit_code == 2
    for text in ("install the driver R580", "run `make gpu`", "no C compiler", "shrink engines", "1.0 GiB are free"):
        assert text in result.stderr, text
    assert "ingress and decoding" in result.stdout


@pytest.mark.usefixtures("able")
def test_auto_with_an_old_driver_plans_cpu_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    result = plan_on(monkeypatch, "auto", RTX_4090, driver="570.1", cuda=12080)
    assert result.exit_code == 0, result.output
    assert "Profile auto chose cpu, and the GPUs stay idle" in result.stdout
    assert "install the driver R580" in result.stdout


@pytest.mark.usefixtures("able")
def test_a_profile_that_fits_another_gpu_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    result = plan_on(monkeypatch, "gpu-24gb", RTX_3060, RTX_4090)
    assert result.exit_code == 2
    assert "or set engines.qwen3-vl.gpu to 1, where it fits" in result.stderr
    alone = plan_on(monkeypatch, "gpu-24gb", RTX_3060)
    assert alone.exit_code == 2 and "engines.qwen3-vl.gpu" not in alone.stderr


def test_auto_plans_for_the_gpus_given_whatever_is_installed_here() -> None:
    result = run("plan", "--profile", "auto", "--gpu", 23.6, "--gpu", 23.6)
    assert result.exit_code == 0, result.output
    assert "Profile auto chose gpu-2x24gb" in result.stdout and "GPU 1, 23.6 GiB" in result.stdout
    assert "there is no GPU" in run("plan", "--profile", "auto").stdout
