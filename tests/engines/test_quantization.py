"""The weights that vLLM loads, by the compute capability of the GPU, which is given here."""

import logging
from typing import Any

import pytest

from roadwork_serve.engines.quantization import VISION, Weights, choose_model, weights_for
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile

TURING, AMPERE, ADA, HOPPER, BLACKWELL = (7, 5), (8, 6), (8, 9), (9, 0), (12, 0)
PLAIN: dict[str, Any] = {"model_type": "qwen3_vl"}
BLOCKS = PLAIN | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
AWQ = PLAIN | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
GPTQ = PLAIN | {"quantization_config": {"quant_method": "gptq", "bits": 4}}


def packed(**weights: object) -> dict[str, Any]:
    groups = {"group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group"} | weights}}
    return PLAIN | {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": groups,
        }
    }


def engine(**settings: Any) -> EngineSpec:
    common: dict[str, Any] = {"backend": "vllm", "model": "whole", "dtype": "bfloat16", "device": "cuda", "num_gpus": 1}
    return EngineSpec.model_validate(common | {"vllm": {"kv_cache_gib": 1}} | settings)


AUTO = {"quantization": "auto", "quantized_models": {"fp8": "blocks", "int4": "awq"}}


@pytest.mark.parametrize(
    ("capability", "model"),
    [(None, "whole"), (TURING, "awq"), (AMPERE, "awq"), (ADA, "whole"), (HOPPER, "blocks"), (BLACKWELL, "blocks")],
)
def test_auto_takes_the_fastest_checkpoint_for_the_gpu(capability: tuple[int, int] | None, model: str) -> None:
    assert choose_model(engine(**AUTO), capability) == model


def test_auto_does_with_what_is_published() -> None:
    fp8 = engine(quantization="auto", quantized_models={"fp8": "blocks"})
    assert [choose_model(fp8, capability) for capability in (AMPERE, ADA, HOPPER)] == ["blocks", "whole", "blocks"]
    assert choose_model(engine(quantization="auto"), AMPERE) == choose_model(engine(), HOPPER) == "whole"


@pytest.mark.parametrize("capability", [None, ADA, HOPPER])
def test_16_bit_weights_become_fp8_per_channel_without_the_vision_tower(capability: tuple[int, int] | None) -> None:
    wanted = {"quantization": "fp8_per_channel", "quantization_config": {"ignore": list(VISION)}}
    for quantization in ("fp8", "auto"):
        found = weights_for(engine(quantization=quantization, revision="main"), "whole", PLAIN, capability)
        assert found == Weights("whole", "main", wanted)
    assert {"*visual*", "*vision_backbone*"} == set(VISION)


def test_below_ada_the_conversion_is_per_tensor() -> None:
    """For per-channel weights made on load vLLM has no kernel there, and refuses to start."""
    assert weights_for(engine(quantization="fp8"), "whole", PLAIN, AMPERE).arguments["quantization"] == "fp8_per_tensor"


@pytest.mark.parametrize(
    ("config", "quantization"), [(BLOCKS, "fp8"), (AWQ, "int4"), (GPTQ, "int4"), (packed(), "int4"), (PLAIN, None)]
)
def test_quantized_checkpoints_are_loaded_as_they_are(config: dict[str, Any], quantization: str | None) -> None:
    for wanted in (quantization, "auto") if quantization else (None,):
        assert weights_for(engine(quantization=wanted), "it", config, ADA) == Weights("it", None)


@pytest.mark.parametrize(
    ("config", "quantization", "message"),
    [
        (PLAIN, "int4", "quantization is int4, and the weights of it are not quantized: name a 4-bit checkpoint"),
        (BLOCKS, "int4", r"it has fp8 weights \(fp8 in blocks\): set quantization: fp8"),
        (packed(), "fp8", r"it has int4 weights \(compressed-tensors pack-quantized\): set quantization: int4"),
        (GPTQ, None, r"it has int4 weights \(gptq\): set quantization: int4"),
        (packed(num_bits=8), "auto", r"it has 8-bit weights \(compressed-tensors pack-quantized\), which are neither"),
        (packed(type="float"), "int4", "it has 4-bit weights .*, which are neither fp8 nor int4"),
    ],
)
def test_a_checkpoint_with_other_weights_is_refused(config: dict[str, Any], quantization: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        weights_for(engine(quantization=quantization), "it", config, ADA)


def test_a_gpu_that_cannot_run_the_weights_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"bfloat16 on a GPU of compute capability 7\.5, .*: set dtype: float16"):
        weights_for(engine(quantization="int4"), "it", AWQ, TURING)
    half = {"quantization": "int4", "dtype": "float16"}
    assert weights_for(engine(**half), "it", AWQ, TURING) == Weights("it", None)
    with pytest.raises(ConfigError, match=r"no kernel for quantized weights on a GPU of compute capability 7\.0"):
        weights_for(engine(**half), "it", AWQ, (7, 0))


def test_slow_fp8_is_logged_with_the_cure(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.roadwork.quantization"):
        weights_for(engine(quantization="fp8"), "it", BLOCKS, HOPPER)
        assert not caplog.text
        weights_for(engine(quantization="fp8"), "it", BLOCKS, ADA)
    assert "FP8 weights in blocks, which a GPU of compute capability 8.9 multiplies in 16 bit" in caplog.text
    assert "the 16-bit checkpoint with quantization: fp8 is about a third faster" in caplog.text


@pytest.mark.parametrize("name", ["gpu-24gb", "gpu-2x24gb"])
def test_the_profiles_for_24_gb_run_w8a8_on_ada_and_hopper(name: str) -> None:
    profile = load_profile(name)
    for spec in profile.engines.values():
        if spec.backend == "vllm":
            assert spec.quantization == "auto"
            assert choose_model(spec, ADA) == spec.model
            assert not spec.model.endswith("-FP8")
            if spec.model.startswith("Qwen/Qwen3-VL"):
                assert choose_model(spec, HOPPER) == choose_model(spec, AMPERE) == f"{spec.model}-FP8"
