"""GPU memory needs of engines, against published sizes."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from roadwork_serve.engines.backbones import load_backbone
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.gpu_memory import (
    CONTEXT_GIB,
    GRAPHS_GIB,
    PP_OCR_GIB,
    RUNTIME_GIB,
    GpuMemoryNeed,
    gpu_memory_need,
    gpu_memory_needs,
)
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.model_sizes import TIMM_MIRRORS, on_meta_device, stored_quantization
from roadwork_serve.profiles.plan import plan_placement
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from tests import untrained
from tests.engines.tiny import ARCHITECTURES, tiny_backbone

QWEN, DINO = "Qwen/Qwen3-VL-8B-Instruct", "facebook/dinov3-vitl16-pretrain-lvd1689m"
FLORENCE = "florence-community/Florence-2-large"


def engine(model: str, **more: Any) -> EngineSpec:
    gpu = {"model": model, "dtype": "bfloat16", "device": "cuda", "num_gpus": 0.5}
    return EngineSpec.model_validate(gpu | {"backend": "transformers"} | more)


def vllm(model: str = QWEN, **more: Any) -> EngineSpec:
    return engine(model, **({"backend": "vllm", "vllm": {"kv_cache_gib": 2}} | more))


def need(spec: EngineSpec, stage: StageName = "vlm", gpu_gib: float = 24.0, **of_stage: Any) -> GpuMemoryNeed:
    return gpu_memory_need("it", spec, {stage: StageSpec.model_validate({"engine": "it"} | of_stage)}, gpu_gib)


# Millions of parameters, from the models' hub pages and papers.
@pytest.mark.parametrize(
    ("model", "millions"),
    [
        ("facebook/dinov3-vits16-pretrain-lvd1689m", 21.6),
        (DINO, 303),
        ("facebook/dinov3-vits16plus-pretrain-lvd1689m", 28.7),
        ("facebook/dinov3-convnext-large-pretrain-lvd1689m", 196),
        ("timm/vit_large_patch16_dinov3.lvd1689m", 303),
        ("timm/convnext_base.dinov3_lvd1689m", 87.6),
        ("facebook/dinov2-giant", 1136),
        ("facebook/dinov2-with-registers-base", 86.6),
        ("facebook/dinov3-vit7b16-pretrain-lvd1689m", 6716),
        ("florence-community/Florence-2-base", 232),
        (FLORENCE, 771),
        ("Qwen/Qwen3-VL-4B-Thinking", 4440),
        ("Qwen/Qwen3-VL-8B-Instruct-FP8", 8770),
        ("Qwen/Qwen3.5-4B", 4540),
    ],
)
def test_sizes_match_the_published_ones(model: str, millions: float) -> None:
    counted = sum(p.numel() for p in on_meta_device(model).parameters()) / 1e6
    assert counted == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    ("model", "quantization", "gib"),
    [
        (QWEN, None, 16.3),
        (f"{QWEN}-FP8", "fp8", 9.9),
        (QWEN, "fp8", 9.9),
        ("somebody/Qwen3-VL-8B-Instruct-AWQ-4bit", "int4", 6.8),
    ],
)
def test_weights_match_the_published_checkpoints(model: str, quantization: str | None, gib: float) -> None:
    assert need(vllm(model, quantization=quantization)).weights == pytest.approx(gib, rel=0.01)


def test_a_checkpoint_must_have_the_quantization_of_the_profile(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"engines\.it\.quantization: .*-FP8 has fp8 weights \(fp8 in blocks\); set it to fp8"
    ):
        need(vllm(f"{QWEN}-FP8"))
    with pytest.raises(ConfigError, match=r"engines\.it\.quantization is int4, and .* not quantized .* set fp8"):
        need(vllm(quantization="int4"))
    assert need(vllm(quantization="auto")).weights == need(vllm(quantization="fp8")).weights
    of_qwen = {"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]}
    unusual = of_qwen | {"quantization_config": {"quant_method": "bitsandbytes", "bits": 8}}
    (tmp_path / "config.json").write_text(json.dumps(unusual))
    with pytest.raises(ConfigError, match=r"8-bit weights \(bitsandbytes\), which are neither fp8 nor int4"):
        need(vllm(str(tmp_path), quantization="fp8"))


def write_quantization(folder: Path, **settings: object) -> None:
    (folder / "config.json").write_text(json.dumps({"quantization_config": settings}))


@pytest.mark.parametrize(
    ("settings", "bits", "weight_format"),
    [
        ({"quant_method": "awq", "bits": 4}, 4, "int4"),
        ({"quant_method": "gptq", "bits": 4}, 4, "int4"),
        ({"quant_method": "gptq", "bits": 8}, 8, None),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8, "fp8"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized",
          "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}, 4, "int4"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized",
          "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}}, 8, "fp8"),
    ],
)  # fmt: skip
def test_quantization_is_read_from_the_config_and_not_from_the_name(
    tmp_path: Path, settings: dict[str, object], bits: int, weight_format: str | None
) -> None:
    folder = tmp_path / "Qwen3-VL-8B-Instruct-FP8"
    folder.mkdir()
    write_quantization(folder, **settings)
    found = stored_quantization(str(folder))
    assert found is not None
    assert (found.bits, found.weight_format) == (bits, weight_format)
    (folder / "config.json").write_text("{}")
    assert stored_quantization(str(folder)) is None
    assert stored_quantization("somebody/Qwen3-VL-8B-Instruct-AWQ-4bit") is None  # nothing is known of it


def test_vllm_has_the_kv_cache_that_the_profile_reserves() -> None:
    found = need(vllm(language={"context_tokens": 1024}), max_batch=2, slots=10)
    assert (found.kv_cache, found.prompts) == (2, 20)
    # 36 layers of 8 heads of 128, keys and values, 16 bit: 144 KiB a token
    assert found.cached_prompts == pytest.approx(2 * 2**20 / 144 / 1024)


def test_vllm_fills_its_share_of_the_gpu() -> None:
    spec = vllm(vllm={"gpu_memory_utilization": 0.9})
    assert need(spec).total == pytest.approx(0.9 * 24)
    assert need(spec, gpu_gib=48).kv_cache == pytest.approx(need(spec).kv_cache + 0.9 * 24)
    with pytest.raises(ConfigError, match=r"engines\.it\.vllm\.gpu_memory_utilization leaves 0\.00 GiB .* of 16 GiB"):
        need(spec, gpu_gib=16)


def test_a_kv_cache_smaller_than_a_prompt_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"engines\.it\.vllm\.kv_cache_gib leaves 0\.20 .* lower language\.context_t"):
        need(vllm(vllm={"kv_cache_gib": 0.2}))


def test_fewer_tokens_per_step_and_no_cuda_graphs_need_less_memory() -> None:
    plain = need(vllm())
    eager = need(vllm(vllm={"kv_cache_gib": 2, "enforce_eager": True}))
    small = need(vllm(vllm={"kv_cache_gib": 2, "arguments": {"max_num_batched_tokens": 1024}}))
    assert plain.activations - eager.activations == pytest.approx(GRAPHS_GIB)
    assert small.activations - GRAPHS_GIB == pytest.approx((plain.activations - GRAPHS_GIB) / 2)


def test_the_kv_cache_of_transformers_grows_with_prompts_and_context() -> None:
    one, four = (need(engine(QWEN), max_batch=prompts) for prompts in (1, 4))
    assert one.kv_cache == pytest.approx(2048 * 144 / 2**20)
    assert four.kv_cache == pytest.approx(4 * one.kv_cache)
    assert (four.prompts, four.cached_prompts) == (4, 4)


def test_a_memory_cap_counts_in_full_and_must_suffice() -> None:
    for spec, stage in ((engine(DINO), "backbone"), (engine(FLORENCE), "signs")):
        free = need(spec, stage, max_batch=1)
        capped = need(spec.model_copy(update={"gpu_memory_gib": 3.0}), stage, max_batch=1)
        assert free.total < capped.total == pytest.approx(3 + CONTEXT_GIB)
        with pytest.raises(ConfigError, match=r"engines\.it\.gpu_memory_gib is 0\.5 and it needs .*: raise it"):
            need(spec.model_copy(update={"gpu_memory_gib": 0.5}), stage)


@pytest.mark.parametrize(
    ("original", "mirror"),
    [(original, mirror) for original, mirror in TIMM_MIRRORS.items() if "7b16" not in original],
)
def test_a_mirror_counts_as_its_original_which_is_what_timm_builds(original: str, mirror: str) -> None:
    counted, same = (sum(p.numel() for p in on_meta_device(model).parameters()) for model in (original, mirror))
    with torch.device("meta"):
        built = timm.create_model(mirror.removeprefix("timm/"), pretrained=False, num_classes=0)
    assert counted == same == pytest.approx(sum(p.numel() for p in built.parameters()), rel=1e-3)


@pytest.mark.parametrize(
    ("size", "registers"), [(size, more) for size in ("small", "base", "large", "giant") for more in ("", "_reg4")]
)
def test_dinov2_has_the_sizes_that_timm_builds(size: str, registers: str) -> None:
    model = f"facebook/dinov2-{'with-registers-' if registers else ''}{size}"
    with torch.device("meta"):
        built = timm.create_model(f"vit_{size}_patch14{registers}_dinov2", pretrained=False, num_classes=0)
    wanted = sum(p.numel() for p in built.parameters())
    assert sum(p.numel() for p in on_meta_device(model).parameters()) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_backbone_in_a_folder_is_counted(name: str, tmp_path: Path) -> None:
    folder = tiny_backbone(name, tmp_path)
    found = need(engine(folder), "backbone")
    assert found.parameters == sum(p.numel() for p in load_backbone(folder).parameters())
    assert found.activations > 0


def test_more_images_at_once_need_more_memory() -> None:
    few, many = (need(engine(DINO, features={"max_thumbs": n}), "backbone").activations for n in (8, 64))
    assert many == pytest.approx(8 * few)
    few, many = (need(engine(FLORENCE), "signs", options={"frames_read": n}).activations for n in (1, 3))
    assert many == pytest.approx(3 * few)


@pytest.mark.parametrize("backend", ["onnx", "tensorrt"])
def test_the_weights_of_an_export_are_the_size_of_its_files(tmp_path: Path, backend: str) -> None:
    file = tmp_path / "stage1.onnx"
    spec = engine(str(file), backend=backend)
    with pytest.raises(ConfigError, match=r"engines\.it\.model: there is no file .*stage1\.onnx; write it with"):
        need(spec, "backbone")
    file.write_bytes(bytes(2**20))
    (tmp_path / "stage1.onnx.data").write_bytes(bytes(2**20))
    assert need(spec, "backbone").weights == pytest.approx(2 / 1024)


def test_pp_ocr_on_a_gpu_is_in_the_plan_with_its_workspace_and_context() -> None:
    profile = load_profile("gpu-24gb", {"engines": {"ocr": {"device": "cuda", "num_gpus": 0.05}}})
    plan = plan_placement(profile, [22.0])
    (ocr,) = {need for need in plan.gpus[0].needs if need.engine == "ocr"}
    assert (ocr.weights, ocr.activations, ocr.context) == (PP_OCR_GIB, RUNTIME_GIB, CONTEXT_GIB)
    assert [need.engine for need in plan.gpus[0].needs].count("ocr") == profile.engines["ocr"].replicas
    wheel = Path(find_spec("rapidocr").origin).parent / "models"  # type: ignore[union-attr, arg-type]
    files = [wheel / f"PP-OCRv6_{part}_small.onnx" for part in ("det", "rec")]
    assert sum(file.stat().st_size for file in files) / 2**30 == pytest.approx(PP_OCR_GIB, abs=0.01)


def test_one_engine_of_a_time_slice_group_is_awake() -> None:
    sliced = {"device": "cuda", "num_gpus": 1, "time_slice_group": "gpu", "dtype": "bfloat16"}
    engines = {
        "small": vllm("allenai/Molmo2-4B", **sliced).model_dump(),
        "large": vllm(QWEN, **sliced).model_dump(),
    }
    profile = Profile.model_validate(
        {"name": "p", "policy": "mini", "engines": engines,
         "stages": {"video": {"engine": "small"}, "vlm": {"engine": "large"}}}
    )  # fmt: skip
    small, large = gpu_memory_needs(profile, ("small", "large"), 24)
    assert large == gpu_memory_need("large", profile.engines["large"], profile.users()["large"], 24)
    assert small.model == "allenai/Molmo2-4B, asleep"
    assert small.total == pytest.approx(CONTEXT_GIB + GRAPHS_GIB)


def test_an_engine_on_two_gpus_has_half_its_weights_on_each() -> None:
    both = vllm(num_gpus=2, vllm={"kv_cache_gib": 2, "arguments": {"tensor_parallel_size": 2}})
    assert need(both).weights == pytest.approx(need(vllm()).weights / 2)


def test_the_size_of_a_folder_follows_from_its_config() -> None:
    counted = sum(p.numel() for p in on_meta_device(str(untrained.vlm())).parameters())
    assert counted == need(engine(str(untrained.vlm()))).parameters > 1e6
    assert need(engine("bundled:backbone"), "backbone").parameters > 1e6


def test_an_unknown_model_is_rejected_with_instructions() -> None:
    with pytest.raises(ConfigError, match=r"config\.json, or one of .*Qwen/Qwen3-VL-8B-Instruct"):
        on_meta_device("someone/some-model")


def test_molmo_2_keeps_the_output_of_every_layer_of_its_vision_tower() -> None:
    """A profiling run of 1024 tokens in vLLM has 12 frames of 83 tokens, and 729 patches each."""
    eager = {"vllm": {"kv_cache_gib": 1, "enforce_eager": True, "arguments": {"max_num_batched_tokens": 1024}}}
    layers, concatenated, mlp = 25, 2, 4304
    bytes_of_frame = 729 * 2 * (1152 * (layers + concatenated) + mlp)
    assert need(vllm("allenai/Molmo2-4B", **eager), "video").activations == pytest.approx(
        12 * bytes_of_frame / 2**30, rel=0.01
    )
    assert 12 * bytes_of_frame / 2**30 == pytest.approx(0.6, abs=0.05)
    wider = {"vllm": eager["vllm"] | {"arguments": {"max_num_batched_tokens": 2048}}}
    assert need(vllm("allenai/Molmo2-4B", **wider), "video").activations == pytest.approx(
        24 * bytes_of_frame / 2**30, rel=0.01
    )
