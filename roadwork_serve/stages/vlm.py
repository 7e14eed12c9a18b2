"""Stages 2B and 3A: a vision language model answers YES or NO, at once or after a thought."""

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
from roadwork_serve.stages.prompts import QUESTION, THINKING_QUESTION

MAX_SIDE, MINIATURE_SIDE = 1024, 448
THOUGHT_TOKENS = 256


class Vlm:
    """Judges photos, and of a clip the middle frame.

    Options: thinking (write a thought first; the stage is then called reasoner), thought_tokens (its budget),
    max_side (pictures are shrunk to this longer side, pixels), max_pixels (a further cap on their area).
    """

    sees: Sees = "images"

    def __init__(self, spec: StageSpec) -> None:
        options = checked("vlm", spec.options, thinking=bool, thought_tokens=int, max_side=int, max_pixels=int)
        self.spec = spec
        self.thinking = options.get("thinking", False)
        self.name = "reasoner" if self.thinking else "vlm"
        self.thought_tokens = options.get("thought_tokens", THOUGHT_TOKENS)
        self.max_side = options.get("max_side", MINIATURE_SIDE if spec.miniature else MAX_SIDE)
        self.engine = VisionLanguageEngine(
            folder(spec.model),
            dtype=spec.dtype,
            device=spec.device,
            threads=spec.threads,
            max_pixels=options.get("max_pixels"),
        )

    def warm(self) -> None:
        """See `Stage`."""
        self._ask([Image.new("RGB", (320, 240))])

    def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """See `Stage`. Abstains on what cannot be decoded."""
        began = time.perf_counter()
        opened = [_open(item, self.max_side) for item in items]
        opened_ms = 1000 * (time.perf_counter() - began)
        opinions = iter(self._ask([image for image in opened if image is not None], opened_ms))
        return [self._say(None) if image is None else next(opinions) for image in opened]

    def _ask(self, images: Sequence[Image.Image], opened_ms: float = 0.0) -> list[Opinion]:
        if not images:
            return []
        began = time.perf_counter()
        question = THINKING_QUESTION if self.thinking else QUESTION
        inputs = self.engine.encode([Prompt(question, (image,)) for image in images], self.thinking)
        encoded = time.perf_counter()
        answers = self.engine.think(inputs, self.thought_tokens) if self.thinking else self.engine.answer(inputs)
        done = time.perf_counter()
        times = {"batch_ms": opened_ms + 1000 * (encoded - began), "compute_ms": 1000 * (done - encoded)}
        return [
            self._say(a.logit, Saw(thought=a.thought, left_over=a.left_over), tokens=a.tokens, **times) for a in answers
        ]

    def _say(
        self,
        logit: float | None,
        saw: Saw | None = None,
        tokens: int = 0,
        batch_ms: float = 0.0,
        compute_ms: float = 0.0,
    ) -> Opinion:
        return Opinion(logit, self.spec.model, self.spec.miniature, saw or Saw(), batch_ms, compute_ms, tokens)


def _open(item: Item, max_side: int) -> Image.Image | None:
    if not item.images:
        return None
    try:
        return open_rgb(item.images[len(item.images) // 2], max_side)
    except MediaError:
        return None
