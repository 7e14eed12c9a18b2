"""Stages 2B and 3A: a vision language model answers YES or NO, at once or after a thought."""

import time
from collections.abc import Sequence

from PIL import Image

from roadwork_serve.cancellable_thread import CancellableThread, stop_if_cancelled
from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.engines.vlm import LanguageEngine, Prompt, VlmAnswer
from roadwork_serve.errors import MediaError
from roadwork_serve.media import open_rgb
from roadwork_serve.profiles.profile import EngineSpec, StageName, StageSpec
from roadwork_serve.schema import Evidence
from roadwork_serve.stages.options import validated
from roadwork_serve.stages.prompts import QUESTION, THINKING_QUESTION

MAX_SIDE, MINIATURE_SIDE = 1024, 448
MAX_ASPECT = 100  # of a picture's sides; Qwen3-VL's processor raises from 200 on
THOUGHT_TOKENS = 256
DECODING_THREADS = 4


class Vlm:
    """Judges photos, and of a clip the middle frame.

    Options: thinking (write a thought first), thought_tokens (its budget), max_side (pictures are shrunk to this
    longer side, pixels).
    """

    sees: StageInput = "images"

    def __init__(self, name: StageName, spec: StageSpec, model: EngineSpec, engine: LanguageEngine) -> None:
        options = validated(name, spec.options, thinking=bool, thought_tokens=int, max_side=int)
        self.name = name
        self.model = model
        self.engine = engine
        self.thinking = options.get("thinking", False)
        self.thought_tokens = options.get("thought_tokens", THOUGHT_TOKENS) if self.thinking else 0
        self.max_side = options.get("max_side", MINIATURE_SIDE if model.miniature else MAX_SIDE)
        self._decoding = CancellableThread(name, threads=DECODING_THREADS)

    async def warm(self) -> None:
        """See `Stage`."""
        await self._ask([Image.new("RGB", (320, 240))])

    async def judge(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`. Abstains on what cannot be decoded."""
        began = time.perf_counter()
        opened = await self._decoding.run(lambda: [_open(item, self.max_side) for item in items])
        opened_ms = 1000 * (time.perf_counter() - began)
        answers = iter(await self._ask([image for image in opened if image is not None]))
        nothing = StagePrediction(None, self.model.model, self.model.miniature, preprocess_ms=opened_ms)
        return [nothing if image is None else prediction_of(next(answers), self.model, opened_ms) for image in opened]

    async def check(self) -> None:
        """See `Stage`."""
        await self.engine.check()

    async def sleep(self) -> None:
        """See `Sleeper`."""
        await self.engine.sleep()

    async def wake(self) -> None:
        """See `Sleeper`."""
        await self.engine.wake()

    async def aclose(self) -> None:
        """See `Stage`."""
        await self._decoding.aclose()
        await self.engine.aclose()

    async def _ask(self, images: Sequence[Image.Image]) -> list[VlmAnswer]:
        question = THINKING_QUESTION if self.thinking else QUESTION
        prompts = [Prompt(question, (image,)) for image in images]
        return await self.engine.ask(prompts, self.thought_tokens) if prompts else []


def prediction_of(answer: VlmAnswer, model: EngineSpec, opened_ms: float) -> StagePrediction:
    """An engine's answer as a stage's word. opened_ms: decoding, on top of what the engine says it took."""
    evidence = Evidence(
        thought=answer.thought, other_token_mass=answer.other_token_mass, from_choice=answer.from_choice
    )
    preprocess_ms = opened_ms + answer.preprocess_ms
    return StagePrediction(
        answer.logit, model.model, model.miniature, evidence, preprocess_ms, answer.compute_ms, answer.tokens
    )


def _open(item: Item, max_side: int) -> Image.Image | None:
    if not item.images:
        return None
    return open_for_model(item.images[len(item.images) // 2], max_side)


def open_for_model(data: bytes, max_side: int) -> Image.Image | None:
    """A picture that a vision language model can look at, else None: too long and thin, or not to be decoded."""
    stop_if_cancelled()
    try:
        image = open_rgb(data, max_side)
    except MediaError:
        return None
    return image if max(image.size) <= MAX_ASPECT * min(image.size) else None
