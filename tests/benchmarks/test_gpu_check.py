"""The check of a GPU, rehearsed on a CPU with untrained miniatures, and its tables."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import transformers
from transformers import AutoConfig, AutoProcessor

from benchmarks.gpu_check import service
from benchmarks.gpu_check.__main__ import BEGIN, END, MODELS, ROOT, main, unfit, write_table
from benchmarks.gpu_check.checkpoints import write_checkpoint
from benchmarks.gpu_check.results import Results, tables
from benchmarks.gpu_check.service import BASES, TINY_LOAD, Service, backbone_batches, make_items
from roadwork_serve.cascade.prediction import Item, Stage, StagePrediction
from roadwork_serve.engines.compile_caches import FOLDERS
from roadwork_serve.profiles.load import load_profile

NAME = "gpu-cpu-tiny.json"
# What a machine with torch and transformers alone lacks.
NOT_INSTALLED = ("ray", "vllm", "pydantic", "fastapi", "onnxruntime", "av", "rapidocr", "openai", "tensorrt")


def rehearse(out: Path, *arguments: str, missing: tuple[str, ...] = ("vllm",)) -> dict[str, Any]:
    """Run the check in a process of its own and return its parts."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r})); from benchmarks.gpu_check.__main__ import main; "
        f"sys.exit(main(['--tiny', '--out', {str(out)!r}, *{arguments!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / NAME).read_text())["parts"]


@pytest.mark.timeout(900)
def test_a_rehearsal_measures_every_part_of_the_service(tmp_path: Path) -> None:
    already: dict[str, Any] = {"batches": [{"batch": 1, "median_ms": 1.0, "per_s": 7.0}]}
    (tmp_path / NAME).write_text(json.dumps({"gpu": "cpu, tiny", "parts": {"backbone": already}}))
    parts = rehearse(tmp_path)
    assert parts["backbone"] == already, "a part that the file has is not measured again"
    assert [each["engine"] for each in parts["start"]["engines"]] == ["dinov3", "florence", "qwen3-vl", "molmo2"]
    measured = {(each["stage"], each["in_flight"]) for each in parts["latency"]["stages"]}
    assert measured == {(s, n) for s in ("backbone", "signs", "vlm", "reasoner", "video") for n in TINY_LOAD}
    assert parts["reasoning"]["in_time"] and parts["reasoning"]["tokens"] > 1
    assert parts["reasoning"]["answered"] >= parts["reasoning"]["photos"]
    assert parts["cascade"]["per_s"] > 0


async def test_stage_1_is_measured_by_batch_up_to_the_most_it_gets() -> None:
    sizes: list[int] = []

    async def predict(items: list[Item]) -> list[StagePrediction]:
        sizes.append(len(items))
        assert all(len(item.thumbs) and not item.images for item in items)
        return [StagePrediction(0.0, "m")] * len(items)

    profile = load_profile("mini")
    service = Service(profile, {"backbone": cast(Stage, SimpleNamespace(predict=predict))})
    service.items["photo"] = await make_items(profile, "photo", BASES)
    assert profile.stages["backbone"].max_batch in range(8, 32)
    rows = (await backbone_batches(service, 0.01))["batches"]
    assert [row["batch"] for row in rows] == [1, 8] and set(sizes) == {1, 8}
    assert all(row["per_s"] > 0 for row in rows)


@pytest.mark.timeout(900)
def test_a_bare_rehearsal_needs_torch_and_transformers_alone(tmp_path: Path) -> None:
    parts = rehearse(tmp_path, "--bare", missing=NOT_INSTALLED)
    assert [each["engine"] for each in parts["start"]["engines"]] == ["backbone", "florence", "vlm"]
    assert {each["stage"] for each in parts["latency"]["stages"]} >= {"signs", "vlm"}


def gpu_models() -> list[str]:
    """Return the models of all profiles for GPUs that are loaded from a folder or the hub."""
    names = [file.stem for file in (ROOT / "roadwork_serve/profiles").glob("gpu-*.yaml")]
    engines = [spec for name in names for spec in load_profile(name).engines.values()]
    return sorted({spec.model for spec in engines if spec.backend in ("transformers", "vllm")})


@pytest.mark.parametrize("model", gpu_models())
def test_every_model_of_a_profile_has_a_checkpoint_without_weights(model: str, tmp_path: Path) -> None:
    write_checkpoint(model, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert hasattr(transformers, config.architectures[0])
    if "dino" in model:
        assert (tmp_path / "head.json").is_file()
    else:
        assert AutoProcessor.from_pretrained(tmp_path).tokenizer is not None
    assert not list(tmp_path.glob("model*.safetensors"))


def test_the_folders_of_models_are_written_anew_at_the_same_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "write_checkpoint", lambda model, folder: folder.mkdir(parents=True))
    published = load_profile("gpu-24gb")
    first = service.with_random_weights(published, tmp_path)
    stale = tmp_path / "qwen3-vl/config.json"
    stale.touch()
    assert service.with_random_weights(published, tmp_path) == first
    assert first.engines["qwen3-vl"].model == str(stale.parent) and not stale.exists()
    assert MODELS == ROOT / "build/gpu-check/models"


@pytest.mark.parametrize("name", ["gpu-2x24gb", "gpu-2x24gb-qwen35"])
def test_a_profile_for_several_gpus_is_refused_before_anything_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("it went on"))
    assert main(["--profile", name, "--out", str(tmp_path / "out")]) == 1
    assert "is on GPU 1, and this check runs all engines on GPU 0: name a copy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["--profile", "nothing"]) == 1 and "does not ship" in capsys.readouterr().err


def test_a_profile_for_one_gpu_is_not_refused() -> None:
    assert unfit("gpu-24gb") is None and unfit("gpu-80gb") is None


def test_compiled_code_is_kept_in_folders_named_before_the_libraries_are_imported() -> None:
    code = (
        "import os, sys; import benchmarks.gpu_check.__main__ as check; assert 'torch' not in sys.modules; "
        "kept = check.keep_compiled; check.keep_compiled = lambda: (kept(), print('torch' in sys.modules)); "
        "check.main(['--bare']); print(os.environ['VLLM_CACHE_ROOT'])"
    )
    environment = {key: value for key, value in os.environ.items() if key not in FOLDERS} | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
    )
    imported, folder = done.stdout.splitlines()
    assert (imported, Path(folder).name) == ("False", "vllm") and "no CUDA GPU" in done.stderr


async def test_agreement_records_the_model_runner_and_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    async def predict(items: list[Item]) -> list[StagePrediction]:
        return [StagePrediction(0.0, "m")] * len(items)

    async def aclose() -> None: ...

    stages = {"vlm": SimpleNamespace(predict=predict, aclose=aclose)}
    monkeypatch.setattr(service, "open_stages", lambda engine, users: stages)
    monkeypatch.setattr(service, "version", lambda package: "0.32.0")
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    found = await service.agreement(load_profile("gpu-24gb"))
    assert (found["runner"], found["vllm_version"], found["largest"]) == ("default", "0.32.0", 0.0)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    found = await service.agreement(load_profile("gpu-24gb"))
    assert found["runner"] == "0"
    assert "by vLLM 0.32.0 (VLLM_USE_V2_MODEL_RUNNER: 0)" in tables("a GPU", {"agreement": found})


def test_a_file_of_another_gpu_is_not_overwritten(tmp_path: Path) -> None:
    Results(tmp_path / "it.json", "one").write("start", {"engines": []})
    with pytest.raises(ValueError, match="has the results of one, and this GPU is two: use --out"):
        Results(tmp_path / "it.json", "two").read()


def test_tables_have_every_part_and_name_what_failed() -> None:
    parts: dict[str, Any] = {
        "start": {"engines": [{"engine": "e", "model": "m", "seconds": 61.4, "peak_gib": 9.87, "planned_gib": 10.0}]},
        "latency": {"stages": [{"stage": "vlm", "in_flight": 8, "median_ms": 70.25, "p90_ms": 99.0, "per_s": 14.3}]},
        "reasoning": {"tokens": 256, "alone_s": 2.5, "loaded_s": 14.0, "photos": 24},
        "cascade": {"error": "RuntimeError: no"},
    }
    text = tables("RTX 4090", parts)
    assert "| e | m | 61 | 9.9 | 10.0 |" in text
    assert "| vlm | 8 | 70.2 | 99.0 | 14.3 |" in text
    assert "256 tokens of reasoning take 2.50 s alone and 14.00 s under 24 photos." in text
    assert "- cascade failed: RuntimeError: no" in text


def test_the_page_has_one_section_for_each_gpu(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nNo GPU has been checked yet.\n{END}\nafter\n")
    write_table(page, "A", "### A\n\nold\n")
    write_table(page, "B", "### B\n\nnew\n")
    write_table(page, "A", "### A\n\nnewer\n")
    assert page.read_text() == f"before\n{BEGIN}\n### B\n\nnew\n\n### A\n\nnewer\n{END}\nafter\n"
