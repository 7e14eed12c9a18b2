"""The check of the profile for a machine."""

import sys
from pathlib import Path

import pytest
import yaml

from roadwork_serve.doctor import profile_check
from roadwork_serve.doctor.finding import Finding
from roadwork_serve.doctor.profile_check import what_would_run
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles import requirements
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.nvml import read_nvml
from tests.fake_nvml import RTX_3060, RTX_4090, fake_nvml


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake a machine with vLLM, a compiler, 64 GiB and eight cores."""
    monkeypatch.setattr(requirements, "find_spec", lambda name: object())
    monkeypatch.setattr("roadwork_serve.profiles.backend_packages.find_spec", lambda name: object())
    monkeypatch.setattr(requirements, "_missing_for_triton", lambda environment: [])
    monkeypatch.setattr(profile_check, "free_ram", lambda: 64 * 2**30)
    monkeypatch.setattr(profile_check, "usable_cores", lambda: 8.0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def problems(findings: list[Finding]) -> list[str]:
    return [each.text for each in findings if each.level == "problem"]


def test_without_a_gpu_auto_takes_cpu_with_all_its_stages() -> None:
    profile, *stages = what_would_run("auto", None)
    assert profile.text == "Profile auto chose cpu: there is no GPU."
    assert [each.topic for each in stages] == [
        f"Stage {name}" for name in ("backbone", "closeup", "signs", "vlm", "reasoner", "video")
    ]
    assert {each.level for each in (profile, *stages)} == {"ok"} and "a small stand-in" in stages[-1].text


def test_auto_takes_the_profile_that_fits_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(RTX_4090))
    findings = what_would_run("auto", read_nvml())
    assert findings[0].text == "Profile auto chose gpu-24gb." and not problems(findings)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(RTX_3060))
    first = what_would_run("auto", read_nvml())[0]
    assert first.level == "note" and "the GPUs stay idle" in first.text


def test_a_named_profile_lists_all_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(RTX_3060))
    monkeypatch.setattr(profile_check, "free_ram", lambda: 2**30)
    vllm, gpu, host = problems(what_would_run("gpu-24gb", read_nvml()))
    assert vllm == "vllm is not installed: run `make gpu`"
    assert "shrink engines" in gpu and "Ray stops processes" in host
    (still,) = problems(what_would_run("cpu", None))
    assert "1.0 GiB are free" in still
    assert not problems(what_would_run("cpu", None, serving=True)), "its own server holds the memory"
    with pytest.raises(ConfigError, match="does not ship"):
        what_would_run("nothing", None)


def test_a_named_profile_that_fits_another_gpu_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(RTX_3060, RTX_4090))
    (gpu,) = problems(what_would_run("gpu-24gb", read_nvml()))
    assert "or set engines.qwen3-vl.gpu to 1, where it fits" in gpu


def test_without_models_all_bundled_stages_run_and_a_profile_that_needs_them_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("roadwork_serve.profiles.backend_packages.find_spec", lambda name: None)
    findings = what_would_run("auto", None)
    assert not problems(findings)
    assert not [each.topic for each in findings if each.text.startswith("would be left out: ")]
    own = load_profile("cpu", {"engines": {"qwen3-vl": {"backend": "transformers"}}})
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(own.model_dump(mode="json", exclude_unset=True)))
    (missing,) = problems(what_would_run(str(file), None))
    assert "roadwork-serve[models]" in missing
