"""The parts of the vLLM engine that need no vLLM; the rest is in tests/vllm."""

import asyncio
from types import SimpleNamespace

import pytest

from roadwork_serve.engines import vllm
from roadwork_serve.engines.molmo import VllmNames
from roadwork_serve.engines.vllm import VllmEngine
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.engine_spec import EngineSpec


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(vllm, "time", clock)
    return clock


def cancelled_after(silence: vllm._Watchdog, clock: Clock, seconds: float) -> None:
    with pytest.raises(asyncio.CancelledError):
        with silence.watch():
            clock.now += seconds
            raise asyncio.CancelledError


def test_an_engine_without_answers_is_considered_hung_although_callers_cancel(clock: Clock) -> None:
    silence = vllm._Watchdog(most_s=90)
    for _ in range(3):
        cancelled_after(silence, clock, 30)
        clock.now += 1000  # idle time does not count
        silence.check()
    cancelled_after(silence, clock, 30)
    with pytest.raises(RuntimeError, match="has had prompts in flight for 120 s and answered none"):
        silence.check()


def test_an_answer_or_an_error_resets_the_watchdog(clock: Clock) -> None:
    silence = vllm._Watchdog(most_s=90)
    cancelled_after(silence, clock, 80)
    with silence.watch():
        clock.now += 5
    cancelled_after(silence, clock, 80)
    with pytest.raises(ValueError), silence.watch():
        raise ValueError("too long")
    cancelled_after(silence, clock, 80)
    silence.check()


def test_a_call_in_flight_counts(clock: Clock) -> None:
    silence = vllm._Watchdog(most_s=90)
    with silence.watch():
        clock.now += 91
        with pytest.raises(RuntimeError):
            silence.check()
    silence.check()


def test_without_vllm_the_error_names_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"m needs vllm, .* install it with `make gpu`, or set backend: transformers"):
        VllmEngine(EngineSpec(backend="vllm", model="m"), photos=True, clips=False, concurrency=1, stuck_s=1)


def test_a_configuration_of_another_model_family_is_unchanged() -> None:
    config = SimpleNamespace(model_type="qwen3_vl")
    tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda token: None, unk_token_id=None)
    assert vars(VllmNames(tokenizer)(config)) == {"model_type": "qwen3_vl"}
