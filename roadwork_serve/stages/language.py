"""Base of the stages that ask a vision language model for YES or NO."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from PIL import Image

from roadwork_serve.cancellable_thread import CancellableThread, stop_if_cancelled
from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.engines.vlm import LanguageEngine, Prompt, VlmAnswer
from roadwork_serve.errors import MediaError
from roadwork_serve.media import open_rgb
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.schema import Evidence

MAX_ASPECT = 100  # ratio of an image's sides; Qwen3-VL's processor raises an error from 200 on
DECODING_THREADS = 4


class Abstain(Exception):
    """An item that a stage does not predict for. Its text is the reason, for the stage report."""


class LanguageStage(ABC):
    """A stage that decodes images, asks a vision language model, and returns its log-odds."""

    sees: StageInput = "images"

    def __init__(
        self, name: StageName, model: EngineSpec, engine: LanguageEngine, *, max_side: int, reasoning_tokens: int = 0
    ) -> None:
        """Create the stage.

        Args:
            name: Name of the stage.
            model: Settings of the engine.
            engine: The engine, which several stages may share.
            max_side: Longer side to which images are scaled down, in pixels.
            reasoning_tokens: Largest number of tokens to generate before the answer; 0 answers immediately.
        """
        self.name, self.model, self.engine = name, model, engine
        self.max_side, self.reasoning_tokens = max_side, reasoning_tokens
        self._decoding = CancellableThread(name, threads=DECODING_THREADS)

    @abstractmethod
    def prompt(self, item: Item) -> Prompt:
        """Return the prompt for an item. Raise Abstain if the model can see no image of it. Runs on a thread."""

    @abstractmethod
    def warm_up_prompt(self) -> Prompt:
        """Return a prompt of usual size."""

    async def warm(self) -> None:
        """See `Stage`."""
        await self.engine.ask([self.warm_up_prompt()], self.reasoning_tokens)

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`. Abstains from items without an image that the model can see."""
        began = time.perf_counter()
        prompts = await self._decoding.run(lambda: [self._prompt_or_reason(item) for item in items])
        decode_ms = 1000 * (time.perf_counter() - began)
        usable = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
        answers = iter(await self.engine.ask(usable, self.reasoning_tokens) if usable else ())
        return [
            prediction_of(next(answers), self.model, decode_ms)
            if isinstance(prompt, Prompt)
            else StagePrediction(
                None, self.model.model, self.model.miniature, preprocess_ms=decode_ms, abstention=prompt
            )
            for prompt in prompts
        ]

    def _prompt_or_reason(self, item: Item) -> Prompt | str:
        try:
            return self.prompt(item)
        except Abstain as reason:
            return str(reason)

    async def check(self) -> None:
        """See `Stage`."""
        await self.engine.check()

    async def sleep(self) -> None:
        """See `Sleepable`."""
        await self.engine.sleep()

    async def wake(self) -> None:
        """See `Sleepable`."""
        await self.engine.wake()

    async def aclose(self) -> None:
        """See `Stage`."""
        await self._decoding.aclose()
        await self.engine.aclose()


def prediction_of(answer: VlmAnswer, model: EngineSpec, decode_ms: float) -> StagePrediction:
    """Convert an engine's answer to a prediction, and add the time of decoding to its preprocessing."""
    evidence = Evidence(
        reasoning=answer.reasoning, other_token_mass=answer.other_token_mass, from_choice=answer.from_choice
    )
    preprocess_ms = decode_ms + answer.preprocess_ms
    return StagePrediction(
        answer.logit, model.model, model.miniature, evidence, preprocess_ms, answer.compute_ms, answer.tokens
    )


def open_for_model(data: bytes, max_side: int) -> Image.Image:
    """Decode an image. Raise Abstain if it cannot be decoded, or is too elongated for the model."""
    stop_if_cancelled()
    try:
        image = open_rgb(data, max_side)
    except MediaError as error:
        raise Abstain(f"the image cannot be decoded: {error}") from None
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise Abstain(
            f"the image has {image.width:,} x {image.height:,} pixels; the model sees none whose longer side is more "
            f"than {MAX_ASPECT} times the shorter one"
        )
    return image
