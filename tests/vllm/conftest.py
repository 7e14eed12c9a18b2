"""Real vLLM on a CPU; `make test-vllm` creates the environment of these tests."""

import importlib.util
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image

from roadwork_serve.engines.vllm import VllmEngine
from roadwork_serve.engines.vlm import Prompt
from roadwork_serve.profiles.engine_spec import EngineSpec
from tests import untrained

HERE = Path(__file__).parent
CONTEXT = 2048
MAX_PIXELS = 160 * 160


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests without vLLM, and allow for the time that engines take to start."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(600))
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # vLLM's imports raise dozens of them
            if importlib.util.find_spec("vllm") is None:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed here; `make test-vllm` runs this"))


def spec(model: Path, **changes: object) -> EngineSpec:
    """Return an engine of vLLM on two cores."""
    small = {"vllm": {"kv_cache_gib": 0.25, "enforce_eager": True}, "language": {"context_tokens": CONTEXT}}
    return EngineSpec.model_validate({"backend": "vllm", "model": str(model)} | small | changes)


def picture(colour: str = "orange", width: int = 160, height: int = 96) -> Image.Image:
    """Return an image with some structure."""
    image = Image.new("RGB", (width, height), colour)
    for x in range(0, width, 8):
        for y in range(0, height, 8):
            image.paste((x % 256, y % 256, x * y % 256), (x, y, x + 4, y + 4))
    return image


def photo(colour: str = "orange", width: int = 160, height: int = 96) -> Prompt:
    """Return a question about an image."""
    return Prompt("Is there active road work?", (picture(colour, width, height),))


def clip(*colours: str) -> Prompt:
    """Return a question about a clip of two frames a second."""
    return Prompt("Is there?", tuple(map(picture, colours)), tuple(i / 2 for i in range(len(colours))))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def qwen() -> AsyncGenerator[VllmEngine]:
    """Return a Qwen3-VL under vLLM, for photos, shrunk to MAX_PIXELS, and clips."""
    engine = VllmEngine(
        spec(untrained.vlm(), language={"context_tokens": CONTEXT, "max_pixels": MAX_PIXELS}),
        photos=True,
        clips=True,
        concurrency=4,
        stuck_s=90,
    )
    yield engine
    await engine.aclose()
