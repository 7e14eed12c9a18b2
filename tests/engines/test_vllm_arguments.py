"""The arguments of vLLM's engine, which need no vLLM."""

from types import SimpleNamespace
from typing import Any

import pytest

from roadwork_serve.engines.quantization import Weights
from roadwork_serve.engines.vllm_arguments import engine_arguments
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.host_needs import host_needs
from roadwork_serve.profiles.load import load_profile

TOKENIZER = SimpleNamespace(convert_tokens_to_ids=lambda token: None, unk_token_id=None)
PROCESSOR: Any = SimpleNamespace(tokenizer=TOKENIZER, video_processor=SimpleNamespace(size={}))


def arguments(concurrency: int = 24, device: str = "cuda", **vllm: Any) -> dict[str, Any]:
    engine = EngineSpec.model_validate(
        {"backend": "vllm", "model": "owner/name", "device": device, "vllm": {"kv_cache_gib": 1} | vllm}
        | ({"num_gpus": 0.5} if device == "cuda" else {})
    )
    return engine_arguments(engine, Weights(engine.model, None), PROCESSOR, True, False, concurrency)


def host_gib(cache_gib: float | None) -> float:
    own = {} if cache_gib is None else {"mm_processor_cache_gb": cache_gib}
    engine = {"qwen3-vl": {"vllm": {"arguments": own}}}
    return next(
        need.gib for need in host_needs(load_profile("gpu-24gb", {"engines": engine})) if need.part == "qwen3-vl"
    )


def test_few_processed_pictures_are_kept_and_as_many_are_planned() -> None:
    kept = arguments()["mm_processor_cache_gb"]
    assert kept == 0.25 and host_gib(None) == host_gib(kept)
    assert arguments(arguments={"mm_processor_cache_gb": 4})["mm_processor_cache_gb"] == 4
    assert host_gib(4) == pytest.approx(host_gib(None) + 3.75)


@pytest.mark.parametrize(
    ("concurrency", "sizes"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20]),
     (24, [1, 2, 4, 8, 16, 24])],
)  # fmt: skip
def test_cuda_graphs_are_of_the_encoder_and_of_steps_up_to_the_prompts_in_flight(
    concurrency: int, sizes: list[int]
) -> None:
    config = arguments(concurrency)["compilation_config"]
    assert config == {"cudagraph_mm_encoder": True, "cudagraph_capture_sizes": sizes}


def test_the_profiles_own_settings_of_graphs_win() -> None:
    own = {"cudagraph_mm_encoder": False, "cudagraph_capture_sizes": [4], "mode": 0}
    assert arguments(arguments={"compilation_config": own})["compilation_config"] == own
    assert arguments(3, arguments={"compilation_config": {"mode": 0}})["compilation_config"] == {
        "cudagraph_mm_encoder": True, "cudagraph_capture_sizes": [1, 2, 3], "mode": 0,
    }  # fmt: skip


def test_there_are_no_graphs_on_a_cpu_or_when_eager() -> None:
    assert "compilation_config" not in arguments(device="cpu")
    assert "compilation_config" not in arguments(enforce_eager=True)
