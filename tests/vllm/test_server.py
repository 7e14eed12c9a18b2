"""The engine that asks OpenAI-compatible servers, against a real `vllm serve` of the same checkpoint."""

import math
from collections.abc import AsyncGenerator, Iterator
from io import BytesIO

import pytest
import pytest_asyncio
from PIL import Image

from benchmarks.vllm_server import MODEL, NAME, vllm_server
from roadwork_serve.cascade.log_odds import sigmoid
from roadwork_serve.engines.openai import OpenAiEngine
from roadwork_serve.engines.transformers import VisionLanguageEngine
from roadwork_serve.engines.vlm import Prompt
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.task import default_task
from roadwork_serve.testbed import scenes
from tests.vllm.conftest import clip

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Yield the URL of a server of the miniature, which is trained to answer YES or NO."""
    with vllm_server(images=8) as server:
        yield server.url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(url: str) -> AsyncGenerator[OpenAiEngine]:
    spec = EngineSpec.model_validate({"backend": "openai", "model": NAME, "server": {"url": url}})
    engine = OpenAiEngine(spec, timeout_s=60)
    yield engine
    await engine.aclose()


def scene(seed: int, question: str = default_task().prompt()) -> Prompt:
    """Return a question about a rendered scene."""
    return Prompt(question, (Image.open(BytesIO(scenes.photo(seed, scale=0.5).jpeg())).convert("RGB"),))


async def test_photos_get_the_same_probability_as_with_transformers(engine: OpenAiEngine) -> None:
    prompts = [scene(seed) for seed in (11, 12, 13, 14)]
    ours, theirs = await engine.ask(prompts), await VisionLanguageEngine(MODEL).ask(prompts)
    assert not any(answer.from_choice for answer in ours)
    assert [sigmoid(answer.logit) for answer in ours] == pytest.approx(
        [sigmoid(answer.logit) for answer in theirs], abs=0.03
    )  # pictures travel as JPEG


async def test_reasoning_stays_in_its_budget_and_is_followed_by_an_answer(engine: OpenAiEngine) -> None:
    (answer,) = await engine.ask([scene(11, default_task().reasoning_prompt())], reasoning_tokens=9)
    assert answer.reasoning
    assert 1 < answer.tokens <= 9 + 8
    assert math.isfinite(answer.logit)


async def test_a_clip_gets_an_answer(engine: OpenAiEngine) -> None:
    (answer,) = await engine.ask([clip("red", "green")])
    assert math.isfinite(answer.logit)


async def test_the_error_names_a_model_that_the_server_lacks(url: str) -> None:
    spec = EngineSpec.model_validate({"backend": "openai", "model": "another", "server": {"url": url}})
    engine = OpenAiEngine(spec, timeout_s=60)
    with pytest.raises(ModelError, match=r"rejects the request for another: .*another"):
        await engine.ask([scene(11)])
    await engine.aclose()
