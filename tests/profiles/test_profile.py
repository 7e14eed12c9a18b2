"""What a profile refuses, and how engines share processes."""

from typing import Any

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import EngineSpec

VLLM = {"runs": "vllm", "model": "Qwen/Qwen3-VL-8B-Instruct"}
ON_CARD = {"device": "cuda", "num_gpus": 0.5, "vllm": {"kv_cache_gib": 2}}


@pytest.mark.parametrize(
    ("engine", "changes", "told"),
    [
        ("dinov3", {"device": "cuda"}, "num_gpus is 0 and device is cuda; book the share"),
        ("dinov3", {"num_gpus": 0.25}, "num_gpus is booked and device is cpu; set device: cuda"),
        ("dinov3", {"device": "cuda", "num_gpus": 1.5}, "num_gpus above 1 must be whole cards"),
        ("dinov3", {"runs": "tensorrt"}, "device: tensorrt runs on a GPU"),
        ("dinov3", {"quantization": "fp8"}, "quantised is vllm's, and transformers runs it"),
        ("dinov3", {"replicas": 3, "max_replicas": 2}, "max_replicas is below replicas; raise it"),
        ("dinov3", {"server": {"url": "http://127.0.0.1:1/v1"}}, "server is set and transformers runs it"),
        ("ocr", {"features": {"second_head": "a"}}, "features.second_head: rapidocr runs no head but its own"),
        ("ocr", {"device": "cuda", "num_gpus": 0.1}, "device: rapidocr runs on the cpu"),
        ("molmo2", {"runs": "openai"}, "server.url is missing; say where the server listens"),
        ("molmo2", {"vllm": {"kv_cache_gib": 1}}, "vllm is set and transformers runs it; set runs: vllm"),
        ("dinov3", {"turns": "card"}, "turns: language models alone can sleep"),
        ("molmo2", {"runs": "vllm", "turns": "card"}, "turns: vllm can sleep on a GPU alone"),
        ("molmo2", VLLM | {"device": "cuda", "num_gpus": 1}, "vllm: give gpu_memory_utilization or kv_cache_gib, else"),
        ("molmo2", VLLM | {"vllm": {"gpu_memory_utilization": 0.5, "kv_cache_gib": 1}}, "vllm: give .* not both"),
        ("molmo2", VLLM | ON_CARD | {"gpu_memory_gib": 3}, "gpu_memory_gib is not vllm's"),
        ("molmo2", VLLM | ON_CARD | {"turns": "card"}, "turns: no other engine takes turns in 'card'; take it out"),
        ("molmo2", VLLM | ON_CARD | {"turns": "card", "replicas": 2}, "replicas: engines that take turns have one"),
        ("dinov3", {"runs": "vllm"}, "runs: vllm cannot do what backbone asks of it; use transformers or onnx or"),
        ("ocr", {"runs": "onnx"}, "runs: onnx cannot do what signs asks of it; use transformers or rapidocr"),
        ("qwen3-vl", {"runs": "rapidocr"}, "runs: rapidocr cannot do what vlm asks of it; use transformers or vllm or"),
    ],
)
def test_an_engine_that_makes_no_sense_is_refused_by_its_line(engine: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=rf"^profile mini with overrides: engines\.{engine}\.{told}"):
        load_profile("mini", {"engines": {engine: changes}})


def test_a_bound_for_each_node_that_bounds_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ingress\.max_per_node is 2 and replicas 2: .* set more replicas"):
        load_profile("mini", {"ingress": {"replicas": 2, "max_per_node": 2}})


def test_engines_that_take_turns_share_a_process() -> None:
    assert load_profile("mini").processes() == [
        ("dinov3",),
        ("ocr",),
        ("qwen3-vl",),
        ("qwen3-vl-thinking",),
        ("molmo2",),
    ]
    turning = VLLM | ON_CARD | {"turns": "card"}
    profile = load_profile("mini", {"engines": {"qwen3-vl-thinking": turning, "molmo2": turning}})
    assert profile.processes()[-1] == ("qwen3-vl-thinking", "molmo2")
    with pytest.raises(ConfigError, match=r"engines qwen3-vl-thinking, molmo2 take turns .* give all one num_gpus"):
        load_profile("mini", {"engines": {"qwen3-vl-thinking": turning, "molmo2": turning | {"num_gpus": 0.25}}})


def test_optional_stages_may_be_many_but_one_is_required() -> None:
    optional = {stage: {"required": False} for stage in ("signs", "vlm", "reasoner", "video")}
    profile = load_profile("mini", {"stages": optional})
    assert [name for name, spec in profile.stages.items() if spec.required] == ["backbone"]
    with pytest.raises(ConfigError, match=r"stages\.backbone\.required: no stage is required.*set required: true"):
        load_profile("mini", {"stages": optional | {"backbone": {"required": False}}})


def test_remote_code_is_off() -> None:
    assert not EngineSpec(runs="transformers", model="somebody/model").trust_remote_code
    assert not any(engine.trust_remote_code for engine in load_profile("mini").engines.values())
