"""Downloads before an engine loads, over a stand-in for the hub's function."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError

from roadwork_serve.engines import downloads
from roadwork_serve.engines.downloads import access_problem, download_weights, is_hub_id
from roadwork_serve.profiles.engine_spec import EngineSpec, VllmSettings, WeightFormat

GIB = 2**30
HUB = EngineSpec(backend="transformers", model="somebody/model", revision="v1")
GATED = EngineSpec(backend="transformers", model="facebook/dinov3-vitl16-pretrain-lvd1689m")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Fake a repository of 3 GiB, of which one is here. Return the calls."""
    calls: list[dict[str, Any]] = []

    def snapshot_download(repo_id: str, *, dry_run: bool = False, tqdm_class: Any = None, **more: Any) -> Any:
        calls.append({"repo_id": repo_id, "dry_run": dry_run, **more})
        if dry_run:
            return [SimpleNamespace(file_size=GIB, will_download=at > 0) for at in range(3)]
        received = tqdm_class(desc="Downloading bytes", total=0, unit="B", unit_scale=True, name="transfer")
        on_disk = tqdm_class(desc="Reconstructing", total=0, unit="B", unit_scale=True)
        files = tqdm_class(total=2, desc="Fetching 2 files")
        for _ in range(2):
            received.update(GIB)
            on_disk.update(GIB // 2)
            files.update(1)
        return "folder"

    monkeypatch.setattr(downloads, "snapshot_download", snapshot_download)
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)
    return calls


def test_the_size_is_logged_beforehand_and_the_progress_reported(
    hub: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="ray.serve.roadwork")
    told: list[str] = []
    download_weights(HUB, told.append)
    assert caplog.messages[0] == "Downloading 2.0 GiB of somebody/model."
    assert told[0] == "downloading, 1.0 of 2.0 GiB" and told[-1] == "downloading, 2.0 of 2.0 GiB"
    assert [call["dry_run"] for call in hub] == [True, False]
    assert all(call["revision"] == "v1" and "*.safetensors" in call["allow_patterns"] for call in hub)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_downloaded_twice_or_offline(hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "snapshot_download", lambda *_, **more: hub.append(more) or [])
    download_weights(HUB)
    assert [call.get("dry_run") for call in hub] == [True]
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", True)
    download_weights(HUB)
    assert len(hub) == 1


@pytest.mark.parametrize("model", ["bundled:vlm", "m", "/models/a", "./a/b", "a/b/c", "roadwork_serve/weights"])
def test_only_repositories_of_the_hub_are_downloaded(hub: list[dict[str, Any]], model: str) -> None:
    assert not is_hub_id(EngineSpec(backend="transformers", model=model))
    download_weights(EngineSpec(backend="transformers", model=model))
    assert hub == []


@pytest.mark.parametrize(
    ("capability", "chosen"),
    [((8, 6), "somebody/model-awq"), ((8, 9), "somebody/model"), ((9, 0), "somebody/model-fp8")],
)
def test_the_checkpoint_for_this_gpu_is_downloaded(
    hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(downloads, "compute_capability", lambda: capability)
    published: dict[WeightFormat, str] = {"fp8": "somebody/model-fp8", "int4": "somebody/model-awq"}
    engine = EngineSpec(
        backend="vllm",
        model="somebody/model",
        revision="v1",
        device="cuda",
        num_gpus=1,
        vllm=VllmSettings(kv_cache_gib=1),
        quantization="auto",
        quantized_models=published,
    )
    download_weights(engine)
    revision = "v1" if chosen == "somebody/model" else None
    assert [(call["repo_id"], call["revision"]) for call in hub] == [(chosen, revision)] * 2


def test_an_error_is_left_to_the_engine(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(downloads, "snapshot_download", fails)
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)
    download_weights(HUB)
    assert "somebody/model were not downloaded beforehand: no network" in caplog.text


def test_a_gated_model_without_access_is_reported_with_its_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(error: Exception | None) -> None:
        def auth_check(self: object, repo_id: str) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(downloads.HfApi, "auth_check", auth_check)

    monkeypatch.setattr(downloads, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)
    gated = GatedRepoError.__new__(GatedRepoError)
    check(gated)
    assert "is gated" in (access_problem(GATED) or "") and "timm/vit_large_patch16" in (access_problem(GATED) or "")
    assert access_problem(HUB) is None, "models that are not known to be gated are not looked up"
    monkeypatch.setattr(downloads, "try_to_load_from_cache", lambda *_, **__: "/cache/config.json")
    assert access_problem(GATED) is None
    monkeypatch.setattr(downloads, "try_to_load_from_cache", lambda *_, **__: None)
    for error in (None, ConnectionError("no network")):
        check(error)
        assert access_problem(GATED) is None
