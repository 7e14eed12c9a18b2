"""The comparison with vLLM's own server: what clients send it, and which responses count."""

import base64
import json
import math
from pathlib import Path

import pytest

from benchmarks.vllm_server import Target, completed_probability, completion, engine, overrides, verdict_probability
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.task import default_task

PHOTO = b"a photo"


def response(*tokens: tuple[str, float]) -> bytes:
    """Return a completion with these tokens and their probabilities."""
    top = [{"token": token, "logprob": math.log(probability)} for token, probability in tokens]
    return json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}).encode()


def verdict(*outcomes: tuple[str, str]) -> bytes:
    """Return a verdict with these stages and outcomes."""
    stages = [{"stage": stage, "outcome": outcome, "probability": 0.25} for stage, outcome in outcomes]
    return json.dumps({"stages": stages}).encode()


def test_the_question_is_that_of_the_stage_and_follows_the_photo() -> None:
    body, _ = completion(PHOTO)
    (message,) = json.loads(body)["messages"]
    image, text = message["content"]
    assert base64.b64decode(image["image_url"]["url"].partition(",")[2]) == PHOTO
    assert text["text"] == default_task().prompt()


def test_spellings_of_an_answer_count_together() -> None:
    assert completed_probability(response(("YES", 0.2), (" yes", 0.4), ("NO", 0.2), ("?", 0.2))) == pytest.approx(0.75)


@pytest.mark.parametrize("tokens", [[("YES", 0.9)], [("NO", 0.9)], [("?", 1.0)]])
def test_a_response_without_both_answers_is_none(tokens: list[tuple[str, float]]) -> None:
    with pytest.raises(ValueError, match="neither"):
        completed_probability(response(*tokens))


def test_only_verdicts_of_the_language_model_count() -> None:
    target = Target("", [], [], verdict_probability)
    assert verdict_probability(verdict(("vlm", "answered"))) == 0.25
    assert target.is_complete(verdict(("vlm", "answered")))
    assert not target.is_complete(verdict(("vlm", "timed_out")))
    assert not target.is_complete(verdict(("backbone", "answered")))
    assert not target.is_complete(verdict(("vlm", "answered"), ("signs", "answered")))
    assert not target.is_complete(b"a proxy's page")


def test_the_language_model_sees_photos_alone(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("{}")
    profile = load_profile("cpu", overrides(tmp_path / "policy.yaml", engine("vllm")))
    assert set(profile.stages) == {"backbone", "vlm"}  # stage 1 is that of clips
    assert profile.engine_of("vlm").backend == "vllm"
