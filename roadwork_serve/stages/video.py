"""Stage 3B: a video model answers YES or NO from a clip's frames and their times."""

import time
from collections.abc import Sequence

from PIL import Image

from roadwork_serve.cascade.opinion import Item, Opinion, Sees
from roadwork_serve.engines.transformers import Prompt, VisionLanguageEngine
from roadwork_serve.engines.weights import folder
from roadwork_serve.errors import MediaError
from roadwork_serve.media import open_rgb
from roadwork_serve.profiles.profile import StageSpec
from roadwork_serve.schema import Saw
from roadwork_serve.stages.options import checked
from roadwork_serve.stages.prompts import CLIP_QUESTION

MAX_SIDE, MINIATURE_SIDE = 768, 320


class Video:
    """Judges clips; a photo is a clip of one frame.

    Options: max_side (frames are shrunk to this longer side before the model's own resizing, pixels).
    """

    name = "video"
    sees: Sees = "images"

    def __init__(self, spec: StageSpec) -> None:
        options = checked(self.name, spec.options, max_side=int)
        self.spec = spec
        self.max_side = options.get("max_side", MINIATURE_SIDE if spec.miniature else MAX_SIDE)
        self.engine = VisionLanguageEngine(
            folder(spec.model), dtype=spec.dtype, device=spec.device, threads=spec.threads
        )

    def warm(self) -> None:
        """See `Stage`."""
        self._ask([Prompt(CLIP_QUESTION, (Image.new("RGB", (320, 240)),) * 8, tuple(i / 4 for i in range(8)))])

    def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """See `Stage`. Abstains on a clip of which no frame can be decoded."""
        began = time.perf_counter()
        prompts = [self._prompt(item) for item in items]
        opened_ms = 1000 * (time.perf_counter() - began)
        opinions = iter(self._ask([p for p in prompts if p is not None], opened_ms))
        nothing = Opinion(None, self.spec.model, self.spec.miniature, batch_ms=opened_ms)
        return [nothing if prompt is None else next(opinions) for prompt in prompts]

    def _prompt(self, item: Item) -> Prompt | None:
        frames, times = [], []
        for encoded, at in zip(item.images, item.timestamps_s, strict=True):
            try:
                frames.append(open_rgb(encoded, self.max_side))
                times.append(at)
            except MediaError:
                continue
        return Prompt(CLIP_QUESTION, tuple(frames), tuple(times)) if frames else None

    def _ask(self, prompts: Sequence[Prompt], opened_ms: float = 0.0) -> list[Opinion]:
        if not prompts:
            return []
        began = time.perf_counter()
        inputs = self.engine.encode(prompts)
        encoded = time.perf_counter()
        answers = self.engine.answer(inputs)
        done = time.perf_counter()
        return [
            Opinion(
                a.logit, self.spec.model, self.spec.miniature, Saw(left_over=a.left_over),
                opened_ms + 1000 * (encoded - began), 1000 * (done - encoded), a.tokens,
            )
            for a in answers
        ]  # fmt: skip
