"""Names, caching, rebuilds, verification and execution of plans, over `fake_tensorrt` on a CPU.

No test here uses TensorRT or a GPU; they verify our use of the documented API.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from roadwork_serve import media
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.cli.main import app
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.tensorrt import TensorRtBackbone
from roadwork_serve.engines.thumbnails import reference_thumbs
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.plan import plan_placement
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.backbone import Backbone
from roadwork_serve.testbed import scenes
from tests import untrained
from tests.engines import fake_tensorrt

PLAN = "-32-fp32-NVIDIA-GeForce-RTX-4090-trt10.99.plan"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    copy = tmp_path / "models" / "stage1.onnx"
    copy.parent.mkdir()
    copy.write_bytes(untrained.exported_backbone().read_bytes())
    return copy


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Fake a GPU and TensorRT."""
    stream = SimpleNamespace(cuda_stream=72)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda given: nullcontext(given) if given is stream else None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fake_tensorrt, "off", 0.0)
    fake_tensorrt.calls.clear()
    fake_tensorrt.refuses.clear()
    yield
    fake_tensorrt.refuses.clear()


def opened(file: Path, **more: int) -> TensorRtBackbone:
    return TensorRtBackbone(file, device="cpu", **more)


def built() -> int:
    return fake_tensorrt.calls.count("build")


def test_a_plan_is_built_once_verified_and_cached_beside_the_file(file: Path) -> None:
    first = opened(file)
    assert built() == 1
    assert first.path.parent == file.parent
    assert first.path.name.endswith(PLAN)
    assert first.plan.difference < 1e-3
    about = json.loads((file.parent / f"{first.path.name}.json").read_text())
    assert (about["side"], about["precision"], about["max_batch"]) == (32, "fp32", 64)
    assert (about["gpu"], about["tensorrt"]) == ("NVIDIA GeForce RTX 4090", "10.99")
    assert (file.parent / "timing-NVIDIA-GeForce-RTX-4090-trt10.99.plan.cache").read_bytes() == b"timed"
    assert len(list(file.parent.iterdir())) == 4  # no draft is left
    assert opened(file).plan == first.plan
    assert built() == 1


def test_it_matches_torch_in_passes_of_the_largest_batch(file: Path) -> None:
    engine = opened(file, max_thumbs=4)
    fake_tensorrt.calls.clear()
    engine.warm()
    assert fake_tensorrt.calls == ["execute 1", "execute 4"]
    thumbs = reference_thumbs(32, 6)
    found, wanted = engine.logits(thumbs), FeatureEngine(engine.plan.model).logits(thumbs)
    assert fake_tensorrt.calls[2:] == ["execute 4", "execute 2"]
    assert list(found) == ["roadwork", "words"]
    for name in found:
        assert found[name] == pytest.approx(wanted[name], abs=1e-3)


def test_a_plan_is_rebuilt_for_other_weights_gpus_versions_and_larger_batches(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(file, max_thumbs=8)
    opened(file, max_thumbs=4)
    assert built() == 1
    opened(file, max_thumbs=16)
    assert built() == 2
    file.with_name("stage1.onnx.data").write_bytes(b"weights beside it count as well")
    opened(file, max_thumbs=16)
    assert built() == 3
    with monkeypatch.context() as patch:
        patch.setattr(fake_tensorrt, "__version__", "11.0")
        assert "trt11.0" in opened(file).path.name
        assert built() == 4
        patch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
        assert "NVIDIA-L4" in opened(file).path.name
        assert built() == 5
    opened(file, max_thumbs=16)
    assert built() == 5


def test_a_build_takes_no_more_memory_than_the_plan_of_the_profile_books(file: Path) -> None:
    fake_tensorrt.workspaces.clear()
    opened(file)
    profile = {"backbone": {"backend": "tensorrt", "model": str(file), "device": "cuda", "num_gpus": 0.1}}
    (plan,) = plan_placement(load_profile("cpu", {"engines": profile}), [24.0]).gpus
    assert [round(need.activations, 3) for need in plan.needs] == [limit / 2**30 for limit in fake_tensorrt.workspaces]


def test_the_timing_cache_is_reused(file: Path) -> None:
    timings = file.parent / "timing-NVIDIA-GeForce-RTX-4090-trt10.99.plan.cache"
    opened(file, max_thumbs=1)
    opened(file, max_thumbs=2)
    assert timings.read_bytes() == b"timedtimed"
    timings.write_bytes(b"broken")
    opened(file, max_thumbs=3)
    assert timings.read_bytes() == b"timed"


def test_a_plan_that_tensorrt_rejects_is_rebuilt(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = opened(file).path
    path.write_bytes(b"\xff damaged")
    with caplog.at_level(logging.WARNING):
        opened(file)
    assert built() == 2
    assert "TensorRT rejects the plan" in caplog.text


def test_plans_go_to_the_cache_folder_if_the_folder_is_read_only(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadwork_serve.engines.tensorrt.os.access", lambda folder, _: Path(folder) != file.parent)
    assert opened(file).path.parent == tmp_path / "cache" / "roadwork-serve"
    opened(file)
    assert built() == 1


def test_a_plan_that_differs_from_torch_is_not_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt, "off", 0.5)
    with pytest.raises(ModelError, match=r"differ from PyTorch's by 0\.5, .*the plan was deleted"):
        opened(file)
    assert not list(file.parent.glob("*.plan"))
    assert not list(file.parent.glob(".*"))


def test_another_side_is_rejected_at_the_start_with_and_without_a_plan(file: Path) -> None:
    for _ in range(2):
        with pytest.raises(ModelError, match=r"exported for thumbnails of 32 px.*have 256"):
            opened(file, side=256)
        opened(file, side=32)
    assert built() == 1


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("parse", r"cannot parse .*: No importer registered for op: Foo\. Try a newer TensorRT"),
        ("build", "could not build .*see its log"),
        ("context", "too little memory for"),
    ],
)
def test_errors_of_tensorrt_are_reported(file: Path, fails: str, message: str) -> None:
    fake_tensorrt.refuses.add(fails)
    with pytest.raises(ModelError, match=message):
        opened(file)
    assert not list(file.parent.glob("*.plan"))


def test_missing_tensorrt_gpu_or_file_is_an_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"there is no file .*gone\.onnx: write it with `roadwork export"):
        opened(file.with_name("gone.onnx"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="PyTorch sees no GPU"):
        TensorRtBackbone(file)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ModelError, match=r"TensorRT is not installed: pip install 'roadwork-serve\[tensorrt\]'"):
        TensorRtBackbone(file)


def test_the_command_builds_a_plan_of_an_existing_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = partial(TensorRtBackbone, device="cpu")
    monkeypatch.setattr("roadwork_serve.engines.tensorrt.TensorRtBackbone", on_cpu)
    result = CliRunner().invoke(app, ["export", "--format", "tensorrt", "--model", str(file), "--max-thumbs", "4"])
    assert result.exit_code == 0, result.output
    assert "for NVIDIA GeForce RTX 4090 and TensorRT 10.99, batches up to 4" in result.output
    assert f"{{backend: tensorrt, model: {file}, device: cuda" in result.output


def test_stage_1_runs_a_plan(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = partial(TensorRtBackbone, device="cpu")
    monkeypatch.setattr("roadwork_serve.engines.tensorrt.TensorRtBackbone", on_cpu)
    spec = {"backend": "tensorrt", "model": str(file), "device": "cuda", "num_gpus": 0.5}
    engine = EngineSpec.model_validate(spec | {"features": {"side": 32, "max_thumbs": 8}})
    stage = Backbone(StageSpec(engine="e"), engine)
    stage.warm()
    assert fake_tensorrt.calls[-2:] == ["execute 1", "execute 8"]
    item = Item.of(media.read(scenes.photo(1, scale=0.2).jpeg(), MediaLimits(thumb_side=32)), "photo", 1e9)
    assert stage.predict([item])[0].logit is not None
