"""Tests of the GPU benchmark: its arithmetic, and a rehearsal on a CPU with toy models."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from benchmarks import gpu
from benchmarks.gpu_models import backbone, clock, florence, models
from benchmarks.gpu_models.cascade import PROFILES
from benchmarks.gpu_models.machine import Machine
from benchmarks.gpu_models.plan import BACKBONE, FULL, TINY, Effort
from benchmarks.gpu_models.results import Peak, Results, file_name, read

# A machine with a GPU need not have the server's dependencies.
NOT_INSTALLED = ("ray", "vllm", "pydantic", "fastapi", "onnxruntime", "av", "rapidocr", "openai", "tensorrt")
NAME = "gpu-cpu-tiny.json"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an evaluation report with the fields that are used."""
    policy = yaml.safe_load((PROFILES / "policies/mini.yaml").read_text())
    path = tmp_path_factory.mktemp("scenes") / "scenes.json"
    path.write_text(json.dumps({
        "profile": "mini", "policy_version": policy["version"], "seed": 1,
        "exit_mix": {"backbone": 0.7, "signs": 0.1, "vlm": 0.1, "reasoner": 0.1},
        "exit_mix_clips": {"backbone": 0.5, "signs": 0.0, "video": 0.5},
        "gflops_per_still": 126 + 0.2 * 1741 + 0.2 * 5600 + 0.1 * 9542,
        "gflops_per_clip": 1008 + 0.25 * 13928 + 0.5 * 16070,
    }))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> dict[str, Any]:
    """Return the file of a whole run, in a process without the server's dependencies."""
    out = tmp_path_factory.mktemp("results")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_INSTALLED!r})); from benchmarks.gpu import main; "
        f"sys.exit(main(['--tiny', '--out', {str(out)!r}, '--scenes', {str(scenes)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=gpu.ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / NAME).read_text())


def test_a_rehearsal_measures_every_part(rehearsed: dict[str, Any]) -> None:
    cases = [row["case"] for row in rehearsed["rows"]]
    assert {(c["mode"], c["side"], c["batch"]) for c in cases if c["part"] == "stage1"} == {
        *((mode, side, batch) for mode in ("eager", "compiled") for side in TINY.sides for batch in TINY.batches),
        *(("graphs", side, batch) for side in TINY.sides for batch in TINY.graph_batches),
    }
    assert {(c["batch"], c["new_tokens"]) for c in cases if c["part"] == "florence"} == {
        (batch, tokens) for batch in TINY.florence_batches for tokens in TINY.florence_tokens
    }
    assert {(c["batch"], c["side"], c["new_tokens"]) for c in cases if c["part"] == "qwen"} == {
        *((batch, side, 1) for batch in TINY.qwen_batches for side in TINY.qwen_sides),
        *((batch, TINY.reference_side, TINY.reasoning_tokens) for batch in TINY.qwen_batches),
    }
    assert [(c["frames"], c["new_tokens"]) for c in cases if c["part"] == "molmo"] == [(TINY.frames, 1)]
    assert rehearsed["failures"] == []
    assert rehearsed["runs"][0]["notes"] == ["tensorrt: not installed"]


def test_every_number_of_a_rehearsal_makes_sense(rehearsed: dict[str, Any]) -> None:
    for row in rehearsed["rows"]:
        timing = row["timing"]
        assert 0 < timing["median_ms"] <= timing["p90_ms"]
        assert timing["first_s"] > 0
        assert timing["repeats"] == TINY.effort.min_calls
        assert row["per_s"] == pytest.approx(row["case"]["batch"] / timing["median_ms"] * 1000)
        assert row["tflops"] == pytest.approx(row["per_s"] * row["gflop"] / 1000)
        assert row["peak_share"] == pytest.approx(row["tflops"] / rehearsed["runs"][0]["peak"]["tflops"])
        assert row["gflop"] > 0


def test_compute_per_item_does_not_depend_on_the_batch(rehearsed: dict[str, Any]) -> None:
    by_size: dict[tuple[Any, ...], set[float]] = {}
    for row in rehearsed["rows"]:
        case = row["case"]
        size = (case["part"], case["operation"], case["side"], case["new_tokens"])
        by_size.setdefault(size, set()).add(round(row["gflop"], 9))
    assert all(len(counts) == 1 for counts in by_size.values()), by_size


def test_a_rehearsal_is_recognizable(rehearsed: dict[str, Any]) -> None:
    assert rehearsed["gpu"] == "cpu, tiny"
    assert all(row["case"]["model"].startswith("tiny ") for row in rehearsed["rows"])
    assert rehearsed["runs"][0]["command"].startswith("python -m benchmarks.gpu --tiny")


def test_the_cascade_adds_up_the_measurements(rehearsed: dict[str, Any]) -> None:
    result = rehearsed["cascade"]
    assert "not measured end to end" in result["method"]
    (vlm,) = [
        row["timing"]["median_ms"]
        for row in rehearsed["rows"]
        if row["case"]["part"] == "qwen" and (row["case"]["side"], row["case"]["batch"]) == (TINY.reference_side, 1)
        and row["case"]["new_tokens"] == 1
    ]  # fmt: skip
    assert result["photo"]["single_stage_ms"] == result["photo"]["stage_ms"]["vlm"] == vlm
    ms = result["photo"]["stage_ms"]
    wanted = ms["backbone"] + 0.2 * ms["signs"] + 0.2 * ms["vlm"] + 0.1 * ms["reasoner"]
    assert result["photo"]["mean_ms"] == pytest.approx(wanted)
    ms = result["clip"]["stage_ms"]
    assert result["clip"]["mean_ms"] == pytest.approx(ms["backbone"] + 0.25 * ms["signs"] + 0.5 * ms["video"])


@pytest.mark.parametrize(("side", "gflop"), [(224, 126), (256, 165), (512, 727)])
def test_counts_the_compute_of_a_backbone_as_published(side: int, gflop: int) -> None:
    model = models.build(BACKBONE, Machine("none", torch.device("meta"), torch.bfloat16, tiny=False))
    images = torch.zeros(2, 3, side, side, device="meta", dtype=torch.bfloat16)
    with torch.inference_mode():
        assert clock.count_flops(lambda: model(images)) / 2e9 == pytest.approx(gflop, rel=0.005)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_counts_attention_whichever_kernel_runs_it(key_heads: int) -> None:
    query, key, value = (torch.zeros(2, heads, 8, 16) for heads in (4, key_heads, key_heads))
    attend = torch.nn.functional.scaled_dot_product_attention
    with torch.inference_mode():
        assert clock.count_flops(lambda: attend(query, key, value, enable_gqa=True)) == 2 * (2 * 4 * 8 * 8 * (16 + 16))


def test_a_later_run_adds_to_the_file_of_the_same_gpu(tmp_path: Path, scenes: Path) -> None:
    assert gpu.main(["--tiny", "--parts", "molmo", "--out", str(tmp_path)]) == 0
    first = read(tmp_path / NAME)
    assert gpu.main(["--tiny", "--parts", "stage1", "--modes", "eager", "--out", str(tmp_path)]) == 0
    assert gpu.main(["--tiny", "--parts", "molmo", "--out", str(tmp_path)]) == 0
    last = read(tmp_path / NAME)
    assert [row.case.part for row in last.rows].count("molmo") == 1
    assert {row.case.part for row in last.rows} == {"molmo", "stage1"}
    assert [row.run for row in first.rows] == [0]
    assert {row.case.part: row.run for row in last.rows} == {"stage1": 1, "molmo": 2}
    assert len(last.runs) == 3
    assert json.loads((tmp_path / NAME).read_text()) == json.loads(json.dumps(asdict(last)))


def test_a_part_that_cannot_be_built_is_reported_and_the_others_run(
    tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--tiny", "--modes", "eager", "--out", str(tmp_path), "--scenes", str(scenes)]
    with monkeypatch.context() as patch:
        patch.setattr(transformers, "Molmo2Config", None)  # as before transformers 5.20
        assert gpu.main([*run, "--parts", "molmo,stage1,cascade"]) == 1
    failed = read(tmp_path / NAME)
    assert [(f.part, f.case) for f in failed.failures] == [("molmo", None), ("cascade", None)]
    assert "has no Molmo2Config: install" in failed.failures[0].error
    assert "signs was not measured" in failed.failures[1].error
    assert {row.case.part for row in failed.rows} == {"stage1"}
    assert "FAILED molmo" in capsys.readouterr().err
    assert gpu.main([*run, "--parts", "molmo"]) == 0
    assert [f.part for f in read(tmp_path / NAME).failures] == ["cascade"]


def test_a_case_that_fails_is_reported_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = florence._generate

    def out_of_memory(model: Any, inputs: dict[str, torch.Tensor], tokens: int) -> torch.Tensor:
        if len(inputs["input_ids"]) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return write(model, inputs, tokens)

    run = ["--tiny", "--parts", "florence", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(florence, "_generate", out_of_memory)
        assert gpu.main(run) == 1
    results = read(tmp_path / NAME)
    assert {row.case.batch for row in results.rows} == {1}
    assert {f.case.batch for f in results.failures if f.case} == {2}
    assert all("Tried to allocate 20.00 GiB" in f.error for f in results.failures)
    assert gpu.main(run) == 0
    assert read(tmp_path / NAME).failures == ()


def test_tensorrt_is_given_the_exported_model(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Engine:
        """Replaces TensorRtBackbone on a machine without TensorRT."""

        _stream = None

        def __init__(self, file: Path, *, side: int, max_thumbs: int) -> None:
            made.append({"file": file.stat().st_size, "side": side, "largest": max_thumbs})

        def _run(self, thumbs: torch.Tensor, outputs: int) -> torch.Tensor:
            return thumbs.float().mean((1, 2, 3))[:, None].expand(-1, outputs)

    monkeypatch.setattr("roadwork_serve.engines.tensorrt.TensorRtBackbone", Engine)
    machine, plan = Machine.here(tiny=True), replace(TINY, sides=(32,))
    (one, two) = list(backbone.jobs(machine, plan, ("tensorrt",)))
    assert [engine["side"] for engine in made] == [32]
    assert made[0]["largest"] == 2 and made[0]["file"] > 100_000
    assert (one.case.mode, one.case.batch, two.case.batch) == ("tensorrt", 1, 2)
    with torch.inference_mode():
        assert two.call().shape == (2, 2)  # type: ignore[attr-defined]
    row = clock.measure(two, machine, plan.effort, Peak(1, 1.0), run=0)
    assert row.gflop == clock.measure(one, machine, plan.effort, Peak(1, 1.0), run=0).gflop > 0


def test_a_text_that_ends_early_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.Florence2ForConditionalGeneration, "generate", lambda *_, **__: torch.zeros(1, 2))
    assert gpu.main(["--tiny", "--parts", "florence", "--out", str(tmp_path)]) == 1
    assert "generated 1 tokens instead of 2" in read(tmp_path / NAME).failures[0].error


def test_the_cascade_can_be_recomputed_without_a_gpu(tmp_path: Path, rehearsed: dict[str, Any],
                                                            scenes: Path) -> None:  # fmt: skip
    path = tmp_path / NAME
    path.write_text(json.dumps({**rehearsed, "cascade": None}))
    assert gpu.main(["--cascade", str(path), "--scenes", str(scenes)]) == 0
    assert json.loads(path.read_text()) == rehearsed


def test_an_evaluation_of_another_policy_is_refused(tmp_path: Path, rehearsed: dict[str, Any], scenes: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps({**json.loads(scenes.read_text()), "policy_version": "mini-0"}))
    (tmp_path / NAME).write_text(json.dumps(rehearsed))
    assert gpu.main(["--tiny", "--parts", "cascade", "--scenes", str(old), "--out", str(tmp_path)]) == 1
    assert "run `make bench` again" in read(tmp_path / NAME).failures[0].error


def test_times_until_the_budget_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, *range(1, 30)])
    monkeypatch.setattr(clock, "_once", lambda *_: next(seconds))
    machine = Machine("none", torch.device("cpu"), torch.float32, tiny=True)
    result = clock.time_call(lambda: None, machine, Effort(warmup=2, min_calls=2, max_calls=99, budget_s=40.0))
    assert result.first_s == 9
    assert result.repeats == 7  # 3 + 4 + ... + 9 = 42 s; 1 and 2 were warm-ups
    assert (result.median_ms, result.p90_ms) == (6000, 9000)


def test_a_file_of_another_gpu_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Results("NVIDIA H200").write(tmp_path / NAME)
    assert gpu.main(["--tiny", "--parts", "molmo", "--out", str(tmp_path)]) == 1
    assert "has the results of NVIDIA H200" in capsys.readouterr().err
    assert read(tmp_path / NAME) == Results("NVIDIA H200")
    (tmp_path / NAME).write_text("{}")
    assert gpu.main(["--tiny", "--parts", "molmo", "--out", str(tmp_path)]) == 1
    assert "move it away" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    assert "no CUDA GPU here; --tiny" in capsys.readouterr().err


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--tiny", "--parts", "stage2"])
    assert "'stage2' is not one of stage1, florence" in capsys.readouterr().err


def test_files_are_named_after_gpus() -> None:
    assert file_name("NVIDIA H200") == "gpu-nvidia-h200.json"
    assert file_name("NVIDIA GeForce RTX 4090") == "gpu-nvidia-geforce-rtx-4090.json"


def test_a_clip_is_as_many_images_as_were_measured_at_once() -> None:
    for plan in (FULL, TINY):
        assert {1, plan.frames} <= set(plan.batches) & set(plan.florence_batches)
        assert plan.reference_tokens in plan.florence_tokens and plan.reference_side in plan.qwen_sides
        assert 1 in plan.qwen_batches


def test_plots_the_measurements(tmp_path: Path, rehearsed: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    path = tmp_path / NAME
    path.write_text(json.dumps(rehearsed))
    assert gpu.main(["--plot", str(path)]) == 0
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.width > 1000 and len(picture.convert("L").getcolors() or []) > 50
