"""Validation of profiles, and which engines share a process."""

from typing import Any

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile

VLLM = {"backend": "vllm", "model": "Qwen/Qwen3-VL-8B-Instruct"}
GPU = {"device": "cuda", "num_gpus": 0.5}
ON_GPU = {"device": "cuda", "num_gpus": 0.5, "vllm": {"kv_cache_gib": 2}}


@pytest.mark.parametrize(
    ("engine", "changes", "message"),
    [
        ("dinov3", {"device": "cuda"}, "num_gpus is 0 and device is cuda; set the share of the GPU"),
        ("dinov3", {"num_gpus": 0.25}, "num_gpus is set and device is cpu; set device: cuda"),
        ("dinov3", {"device": "cuda", "num_gpus": 1.5}, "num_gpus above 1 must be a whole number of GPUs"),
        ("dinov3", {"backend": "tensorrt"}, "device: tensorrt runs on a GPU"),
        ("dinov3", {"quantization": "fp8"}, "quantization is for backend: vllm, and backend is onnx"),
        ("molmo2", {"quantized_models": {"fp8": "m"}}, "quantized_models is for backend: vllm"),
        ("molmo2", VLLM | {"quantized_models": {"fp8": "m"}}, "quantized_models is used only by quantization: auto"),
        (
            "molmo2",
            {"backend": "openai", "server": {"url": "http://a/v1"}, "language": {"question_first": True}},
            "language.question_first: the prompt of backend: openai has a fixed order",
        ),
        ("dinov3", {"replicas": 3, "max_replicas": 2}, "max_replicas is below replicas; raise it"),
        ("dinov3", {"server": {"url": "http://127.0.0.1:1/v1"}}, "server is set and backend is onnx"),
        ("ocr", {"features": {"second_head": "a"}}, "features.second_head: rapidocr cannot run a second head"),
        ("ocr", {"device": "cuda"}, "num_gpus is 0 and device is cuda; set the share of the GPU"),
        ("ocr", GPU | {"gpu_memory_gib": 1}, "gpu_memory_gib: rapidocr does not allocate through PyTorch"),
        ("ocr", GPU | {"time_slice_group": "a"}, "time_slice_group: (only language models|rapidocr cannot sleep)"),
        ("ocr", {"gpu": 1}, "gpu is set and device is cpu; set device: cuda, or remove it"),
        ("qwen3-vl", GPU | {"num_gpus": 2, "gpu": 1}, "gpu names one GPU and num_gpus is above 1"),
        (
            "qwen3-vl",
            GPU | {"gpu": 1, "max_replicas": 2},
            "max_replicas: all replicas of an engine with gpu run on that",
        ),
        ("molmo2", {"backend": "openai"}, "server.url is missing; set the URL of the server"),
        ("molmo2", {"vllm": {"kv_cache_gib": 1}}, "vllm is set and backend is onnx; set backend: vllm"),
        ("dinov3", {"time_slice_group": "gpu"}, "time_slice_group: onnx cannot sleep"),
        (
            "dinov3",
            {"backend": "transformers", "time_slice_group": "gpu"},
            "time_slice_group: only language models can sleep",
        ),
        ("molmo2", {"language": {"sampling": {"temperature": 1}}}, "language.sampling: backend onnx takes the most"),
        ("molmo2", {"backend": "vllm", "time_slice_group": "gpu"}, "time_slice_group: vllm can sleep only on a GPU"),
        ("molmo2", VLLM | {"device": "cuda", "num_gpus": 1}, "vllm: set gpu_memory_utilization or kv_cache_gib, or it"),
        ("molmo2", VLLM | {"vllm": {"gpu_memory_utilization": 0.5, "kv_cache_gib": 1}}, "vllm: set .* not both"),
        ("molmo2", VLLM | ON_GPU | {"gpu_memory_gib": 3}, "gpu_memory_gib does not apply to vllm"),
        (
            "molmo2",
            VLLM | ON_GPU | {"time_slice_group": "gpu"},
            "time_slice_group: no other engine is in the group 'gpu'; remove it",
        ),
        (
            "molmo2",
            VLLM | ON_GPU | {"time_slice_group": "gpu", "replicas": 2},
            "replicas: an engine with time_slice_group has one replica",
        ),
        ("dinov3", {"backend": "vllm"}, "backend: vllm cannot run backbone; use transformers or onnx or"),
        ("ocr", {"backend": "onnx"}, "backend: onnx cannot run signs; use transformers or rapidocr"),
        ("qwen3-vl", {"backend": "rapidocr"}, "backend: rapidocr cannot run vlm; use transformers or onnx or vllm or"),
    ],
)
def test_an_invalid_engine_is_rejected_by_its_field(engine: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^profile mini with overrides: engines\.{engine}\.{message}"):
        load_profile("mini", {"engines": {engine: changes}})


def test_either_all_engines_on_gpus_name_one_or_none() -> None:
    with pytest.raises(
        ConfigError, match=r"engines\.molmo2\.gpu is not set, and engines\.qwen3-vl names its GPU; name"
    ):
        load_profile("mini", {"engines": {"qwen3-vl": GPU | {"gpu": 0}, "molmo2": GPU}})
    named = load_profile("mini", {"engines": {"qwen3-vl": GPU | {"gpu": 0}, "molmo2": GPU | {"gpu": 1}}})
    assert named.names_gpus and not load_profile("mini").names_gpus


def test_a_limit_per_node_without_effect_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"ingress\.max_per_node is 2 and replicas is 2, .* set more replicas"):
        load_profile("mini", {"ingress": {"replicas": 2, "max_per_node": 2}})


def test_engines_of_a_time_slice_group_share_a_process() -> None:
    assert load_profile("mini").processes() == [
        ("dinov3",),
        ("ocr",),
        ("qwen3-vl",),
        ("qwen3-vl-thinking",),
        ("molmo2",),
    ]
    sliced = VLLM | ON_GPU | {"time_slice_group": "gpu"}
    profile = load_profile("mini", {"engines": {"qwen3-vl-thinking": sliced, "molmo2": sliced}})
    assert profile.processes()[-1] == ("qwen3-vl-thinking", "molmo2")
    with pytest.raises(
        ConfigError,
        match=r"engines qwen3-vl-thinking, molmo2 share the time_slice_group 'gpu'; give all the same num_gpus",
    ):
        load_profile("mini", {"engines": {"qwen3-vl-thinking": sliced, "molmo2": sliced | {"num_gpus": 0.25}}})


def test_engines_that_name_a_process_share_it() -> None:
    assert load_profile("cpu").processes() == [("backbone",), ("ocr",), ("qwen3-vl", "molmo2")]
    for settings, message in (
        (GPU | {"backend": "transformers"}, "process: engines on a GPU have a process each"),
        ({"replicas": 2}, "process: an engine that shares a process has one replica"),
        ({"max_replicas": 2}, "process: an engine that shares a process has one replica"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_profile("cpu", {"engines": {"molmo2": settings}})


def test_optional_stages_may_be_many_but_one_is_required() -> None:
    optional = {stage: {"required": False} for stage in ("signs", "vlm", "reasoner", "video")}
    profile = load_profile("mini", {"stages": optional})
    assert [name for name, spec in profile.stages.items() if spec.required] == ["backbone"]
    with pytest.raises(ConfigError, match=r"stages\.backbone\.required: no stage is required.*set required: true"):
        load_profile("mini", {"stages": optional | {"backbone": {"required": False}}})


def test_remote_code_is_off() -> None:
    assert not EngineSpec(backend="transformers", model="somebody/model").trust_remote_code
    assert not any(engine.trust_remote_code for engine in load_profile("mini").engines.values())


def test_an_engine_with_a_score_head_serves_no_stage_that_thinks() -> None:
    scoring = {"engines": {"qwen3-vl": {"vllm": {"score_head": True}}}}
    with pytest.raises(ConfigError, match=r"engines\.qwen3-vl\.vllm\.score_head: .* and stages\.reasoner thinks; give"):
        load_profile("gpu-24gb", scoring)
    assert load_profile("gpu-2x24gb", scoring).engines["qwen3-vl"].vllm.score_head
