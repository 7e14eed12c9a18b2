"""Stage 3B: a video model answers YES or NO from a clip's frames and their times."""

import time
from collections.abc import Sequence

from PIL import Image

from roadwork_serve.cancellable_thread import CancellableThread
from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.engines.vlm import LanguageEngine, Prompt
from roadwork_serve.profiles.profile import EngineSpec, StageName, StageSpec
from roadwork_serve.stages.options import validated
from roadwork_serve.stages.prompts import CLIP_QUESTION
from roadwork_serve.stages.vlm import DECODING_THREADS, open_for_model, prediction_of

MAX_SIDE, MINIATURE_SIDE = 768, 320


class Video:
    """Judges clips; a photo is a clip of one frame.

    Options: frames (how many are shown to the model, evenly spread over those that came; all by default),
    max_side (they are shrunk to this longer side before the model's own resizing, pixels).
    """

    sees: StageInput = "images"

    def __init__(self, name: StageName, spec: StageSpec, model: EngineSpec, engine: LanguageEngine) -> None:
        options = validated(name, spec.options, frames=int, max_side=int)
        self.name = name
        self.model = model
        self.engine = engine
        self.frames = options.get("frames")
        self.max_side = options.get("max_side", MINIATURE_SIDE if model.miniature else MAX_SIDE)
        self._decoding = CancellableThread(name, threads=DECODING_THREADS)

    async def warm(self) -> None:
        """See `Stage`."""
        frames = self.frames or 8
        made_up = (Image.new("RGB", (320, 240)),) * frames
        await self.engine.ask([Prompt(CLIP_QUESTION, made_up, tuple(i / 4 for i in range(frames)))])

    async def judge(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`. Abstains on a clip of which no frame can be decoded."""
        began = time.perf_counter()
        prompts = await self._decoding.run(lambda: [self._prompt(item) for item in items])
        opened_ms = 1000 * (time.perf_counter() - began)
        asked = [prompt for prompt in prompts if prompt is not None]
        answers = iter(await self.engine.ask(asked) if asked else ())
        nothing = StagePrediction(None, self.model.model, self.model.miniature, preprocess_ms=opened_ms)
        return [
            nothing if prompt is None else prediction_of(next(answers), self.model, opened_ms) for prompt in prompts
        ]

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

    def _prompt(self, item: Item) -> Prompt | None:
        frames, times = [], []
        for i in _spread(len(item.images), self.frames or len(item.images)):
            if (frame := open_for_model(item.images[i], self.max_side)) is not None:
                frames.append(frame)
                times.append(item.timestamps_s[i])
        return Prompt(CLIP_QUESTION, tuple(frames), tuple(times)) if frames else None


def _spread(there: int, wanted: int) -> list[int]:
    """Indices of at most `wanted` of so many, evenly apart, from the first on."""
    return [i * there // wanted for i in range(wanted)] if wanted < there else list(range(there))
