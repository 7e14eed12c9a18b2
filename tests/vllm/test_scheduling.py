"""Reasoning under a full load of photos, in vLLM's own scheduler with the settings of the profile for one 24 GB GPU.

No model runs: each step takes as many tokens as the scheduler gives it, and every prompt gets a token when it is due.
"""

import itertools
from typing import Any

import pytest
import torch

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.engines.quantization import Weights
from roadwork_serve.engines.vllm import IMMEDIATE, REASONING
from roadwork_serve.engines.vllm_arguments import engine_arguments
from roadwork_serve.profiles.load import load_policy_mapping, load_profile
from tests import untrained

PHOTO_TOKENS = 330
GFLOP_PER_TOKEN = 13.9 + 1000 / PHOTO_TOKENS  # of Qwen3-VL-8B, and of its vision tower for a photo of 512 x 512
TFLOPS = 120.0  # of an RTX 4090 in FP8: an estimate, 36 % of its peak


@pytest.fixture(scope="module")
def arguments() -> dict[str, Any]:
    """Return the arguments of the profile's engine, with a small model on the CPU."""
    from transformers import AutoProcessor

    profile = load_profile("gpu-24gb")
    engine = profile.engines["qwen3-vl"].model_copy(update={"model": str(untrained.vlm()), "device": "cpu"})
    concurrency = sum(spec.max_batch * spec.slots for spec in profile.users()["qwen3-vl"].values())
    processor = AutoProcessor.from_pretrained(engine.model)
    return engine_arguments(engine, Weights(engine.model, None), processor, True, True, concurrency)


class Load:
    """The scheduler with as many photos as the profile has slots for, each replaced when it is answered."""

    def __init__(self, arguments: dict[str, Any], photos: int) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        arguments = arguments | {"enable_prefix_caching": False}  # all photos differ, and hashes take a hasher
        config = AsyncEngineArgs(**arguments).create_engine_config()
        self.largest = config.scheduler_config.max_num_batched_tokens
        block, blocks = 16, 21_800 // 16  # the KV cache of the profile
        config.cache_config.num_gpu_blocks = blocks
        layers = KVCacheGroupSpec(
            ["layer"], FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=1, dtype=torch.float32)
        )
        self._scheduler = Scheduler(config, KVCacheConfig(blocks, [], [layers]), StructuredOutputManager(config), block)
        self._names = itertools.count()
        self._answered = 0
        for _ in range(photos):
            self.add(IMMEDIATE, 1)

    def add(self, priority: int, tokens: int) -> str:
        """Add a prompt and return its name."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        number = next(self._names)
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        prompt = [(number * 31 + i) % 500 for i in range(PHOTO_TOKENS)]
        request = Request(f"{number}", prompt, params, None, arrival_time=float(number), priority=priority)
        self._scheduler.add_request(request)
        return request.request_id

    def step(self) -> tuple[int, set[str]]:
        """Run a step. Returns its tokens and the prompts that got a token in it."""
        from vllm.v1.outputs import ModelRunnerOutput

        plan = self._scheduler.schedule()
        names = list(plan.num_scheduled_tokens)
        requests = self._scheduler.requests
        due = {name for name in names if requests[name].num_computed_tokens >= requests[name].num_tokens}
        sampled = [[7] if name in due else [] for name in names]
        output = ModelRunnerOutput(names, {name: i for i, name in enumerate(names)}, sampled)
        self._scheduler.update_from_output(plan, output)
        for _ in [name for name in due if name not in self._scheduler.requests]:
            self._answered += 1
            self.add(IMMEDIATE, 1)
        return plan.total_num_scheduled_tokens, due


def steps_of(load: Load, name: str, tokens: int) -> list[int]:
    """Return the tokens of every step until a prompt has got its tokens; fails after 2,000 steps."""
    done, sizes = 0, list[int]()
    while done < tokens:
        assert len(sizes) < 2000, f"{done} of {tokens} tokens"
        size, due = load.step()
        sizes.append(size)
        done += name in due
    return sizes


def test_a_thought_gets_a_token_in_every_step_under_a_full_load_of_photos(arguments: dict[str, Any]) -> None:
    profile = load_profile("gpu-24gb")
    budget = profile.stages["reasoner"].options["reasoning_tokens"]
    load = Load(arguments, photos=profile.stages["vlm"].slots)
    for _ in range(5):
        load.step()
    sizes = steps_of(load, load.add(REASONING, budget), budget)
    assert len(sizes) <= budget + 2  # the first needs two steps, if another prompt has begun
    assert min(sizes[1:-1]) == load.largest  # the load was full
    seconds = sum(sizes) * GFLOP_PER_TOKEN / 1000 / TFLOPS
    steps = Policy.parse(load_policy_mapping(profile.policy)).photo
    (needs_ms,) = (step.min_time_left_ms for step in steps if step.stage == "reasoner")
    assert needs_ms is not None
    assert seconds <= needs_ms / 1000 < profile.stages["reasoner"].timeout_s
    assert needs_ms < profile.ingress.default_deadline_ms


def test_without_priority_a_thought_waits_for_the_photos_before_it(arguments: dict[str, Any]) -> None:
    load = Load(arguments, photos=24)
    first = len(steps_of(load, load.add(IMMEDIATE, 8), 1))
    load = Load(arguments, photos=24)
    assert len(steps_of(load, load.add(REASONING, 8), 1)) <= 2 < 10 < first
