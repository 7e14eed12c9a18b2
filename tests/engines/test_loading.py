"""Errors of invalid checkpoints, which explain the fix. Errors of the hub come from huggingface_hub itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, Response
from huggingface_hub.utils import hf_raise_for_status
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, DINOv3ViTModel
from transformers.utils import hub

from roadwork_serve.engines import memory
from roadwork_serve.engines.backbones import load_backbone
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.loading import load_pretrained, load_processor
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.model_sizes import TIMM_MIRRORS
from tests import untrained

DINO = "facebook/dinov3-vitl16-pretrain-lvd1689m"


def load(model: str | Path, **more: Any) -> Any:
    return load_pretrained(DINOv3ViTModel, str(model), LoadOptions(**more))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of a checkpoint, to be damaged."""
    return shutil.copytree(untrained.backbone(), tmp_path / "copy")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Return a function that sets the response of the hub, with an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def answer(status: int, code: str = "") -> None:
        def download(*_: object, **__: object) -> NoReturn:
            url = f"https://huggingface.co/api/models/{DINO}"
            request = type("Request", (), {"url": url, "method": "GET", "headers": {}})()
            response = Response(status, headers={"X-Error-Code": code} if code else {})
            response.request = request
            hf_raise_for_status(response)
            raise AssertionError

        monkeypatch.setattr(hub, "hf_hub_download", download)

    return answer


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", rf"gated.*accept the licence on https://huggingface\.co/{DINO}.*`hf auth login`.*HF_TOKEN"),
        (401, "GatedRepo", r"gated.*`hf auth login`"),
        (403, "", r"gated.*`hf auth login`"),
        (404, "RepoNotFound", r"no folder.*no repository of that name.*engines\.NAME\.model"),
        (404, "RevisionNotFound", r"no revision 'v9'.*engines\.NAME\.revision"),
        (500, "", "hub returned an error.*Try again"),
    ],
)
def test_errors_of_the_hub_explain_the_fix(answers: Callable[..., None], status: int, code: str, message: str) -> None:
    answers(status, code)
    with pytest.raises(ModelError, match=message):
        load(DINO, revision="v9")
    with pytest.raises(ModelError, match=message):
        load_processor(AutoProcessor, DINO, LoadOptions(revision="v9"))


@pytest.mark.parametrize(
    ("model", "instead"),
    [
        (DINO, "timm/vit_large_patch16_dinov3.lvd1689m has the same weights"),
        ("facebook/dinov3-vit7b16-pretrain-sat493m", "timm/vit_7b_patch16_dinov3.sat493m has the same weights"),
        ("facebook/dinov3-convnext-tiny-pretrain-lvd1689m", "timm/convnext_tiny.dinov3_lvd1689m has the same weights"),
        ("facebook/dinov3-of-tomorrow", "set model to facebook/dinov2-with-registers-large to start now"),
    ],
)
def test_a_gated_backbone_is_an_error_with_an_alternative(
    answers: Callable[..., None], model: str, instead: str
) -> None:
    answers(403, "GatedRepo")
    with pytest.raises(
        ModelError, match=rf"^{model} is gated .*`hf auth login` .*Without a licence.* {instead}"
    ) as raised:
        load_backbone(model)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match=r"set HF_TOKEN\.$"):
        load_processor(AutoProcessor, "someone/a-gated-vlm")


def test_every_mirror_is_an_architecture_and_a_checkpoint_of_timm() -> None:
    assert len(TIMM_MIRRORS) == 12
    for mirror in TIMM_MIRRORS.values():
        assert timm.is_model(mirror.removeprefix("timm/"))
        assert mirror.removeprefix("timm/") in timm.list_pretrained()


def test_without_a_network_the_error_explains_how_to_provide_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def download(*_: object, **__: object) -> NoReturn:
        raise LocalEntryNotFoundError("no connection") from OSError("Name or service not known")

    with monkeypatch.context() as patch:
        patch.setattr(hub, "hf_hub_download", download)
        with pytest.raises(ModelError, match=f"hub cannot be reached: run `hf download {DINO} --revision v9`"):
            load(DINO, revision="v9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"HF_HUB_OFFLINE is set: run `hf download {DINO}`.*or give a folder"):
        load(DINO)


def test_missing_or_truncated_weights_are_an_error(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"damaged or truncated.*download them again"):
        load(copy)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no file named model\.safetensors.*Give a folder"):
        load(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json with a model_type"):
        load(copy)
    with pytest.raises(ModelError, match=r"There is no folder .*gone"):
        load(copy / "gone")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_missing_or_misshapen_weights_are_an_error(copy: Path) -> None:
    whole = load_file(copy / "model.safetensors")
    name = next(name for name in whole if name.endswith("q_proj.weight"))
    save_file({n: w for n, w in whole.items() if n != name}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the weights.*q_proj\.weight, which would be random"):
        load(copy)
    save_file(whole | {name: whole[name][:, :5].contiguous()}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"q_proj.weight as \(\d+, 5\) where its config.json has"):
        load(copy)


def test_another_architecture_is_rejected_before_its_weights_are_read(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"of the model type vit, and .* needs dinov3_vit"):
        load(copy)


def test_a_folder_without_a_processor_is_not_complete() -> None:
    with pytest.raises(ModelError, match=r"no usable processor.*incomplete"):
        load_processor(AutoProcessor, str(untrained.backbone()))


def test_remote_code_stays_off_and_the_revision_is_passed_on() -> None:
    class Spy:
        __name__ = "Spy"
        seen: dict[str, Any]

        def from_pretrained(self, model: str, **asked: Any) -> Any:
            self.seen = asked
            return torch.nn.Linear(1, 1), {"missing_keys": set(), "mismatched_keys": set()}

    spy: Any = Spy()
    folder = str(untrained.backbone())
    load_pretrained(spy, folder, LoadOptions(dtype="bfloat16"))
    assert spy.seen["trust_remote_code"] is False
    assert "revision" not in spy.seen
    assert spy.seen["dtype"] is torch.bfloat16
    load_pretrained(spy, folder, LoadOptions(trust_remote_code=True, revision="v1"))
    assert spy.seen["trust_remote_code"] is True
    assert spy.seen["revision"] == "v1"


def test_our_checkpoints_have_all_their_weights() -> None:
    for folder in (untrained.vlm(), untrained.video()):
        model = load_pretrained(AutoModelForImageTextToText, str(folder))
        assert not any(weights.is_meta for weights in model.parameters())


def test_too_little_memory_is_an_error_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_ram", lambda: 2**20)
    with pytest.raises(ModelError, match=r"takes 0\.0 GiB of memory in float32 and 0\.0 GiB are free"):
        load(untrained.backbone())


def test_weights_are_counted_in_the_dtype_they_are_loaded_as() -> None:
    numbers = sum(p.numel() for p in load(untrained.backbone()).parameters())
    assert memory.weights_bytes(untrained.backbone(), "float32") == 4 * numbers
    assert memory.weights_bytes(untrained.backbone(), "bfloat16") == 2 * numbers


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Fake a GPU of 24 GiB with 12 MiB free, and return the memory fractions set in PyTorch."""
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12 * 2**20, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    return shares


def test_too_little_gpu_memory_is_an_error_with_figures(gpu: list[float]) -> None:
    with pytest.raises(ModelError, match=r"takes 0\.0 GiB in float32 and 0\.0 GiB of the GPU are free"):
        memory.check_memory("m", _weights(13), LoadOptions(device="cuda"))
    memory.check_memory("m", _weights(11), LoadOptions(device="cuda"))
    with pytest.raises(ModelError, match=r"gpu_memory_gib allows 0\.01"):
        memory.check_memory("m", _weights(11), LoadOptions(device="cuda", gpu_memory_gib=0.01))


def test_the_process_is_limited_to_its_share_of_the_gpu(gpu: list[float]) -> None:
    memory.cap_gpu_memory(LoadOptions(device="cuda", gpu_memory_gib=6))
    memory.cap_gpu_memory(LoadOptions(device="cuda", gpu_memory_gib=48))
    memory.cap_gpu_memory(LoadOptions(device="cpu", gpu_memory_gib=6))
    memory.cap_gpu_memory(LoadOptions(device="cuda"))
    assert gpu == [0.25, 1.0]


def test_a_gpu_that_pytorch_does_not_see_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=r"PyTorch sees no GPU.*nvidia-smi.*device: cpu"):
        load(untrained.backbone(), device="cuda")


def test_a_model_that_does_not_fit_into_free_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(DINOv3ViTModel, "to", full)
    with pytest.raises(
        ModelError, match=r"does not fit into the free memory of the GPU.*Tried to allocate 2\.00 GiB.*gpu_memory_gib"
    ):
        load(untrained.backbone())


def _weights(mib: int) -> Path:
    """Return a folder with a safetensors file of this many MiB in fp32, of which only the header exists."""
    folder = Path(untrained._root()) / f"header-{mib}"
    folder.mkdir(exist_ok=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [mib, 2**18], "data_offsets": [0, mib * 2**20]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder
