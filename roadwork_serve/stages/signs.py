"""Stage 2A: OCR of signs.

Works signs are strong evidence for road work, an end sign is strong evidence against it, and no text is no evidence.
The vocabulary of another task has the same meanings.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.engines.ocr import OcrEngine, OcrLine
from roadwork_serve.engines.registry import open_ocr
from roadwork_serve.errors import MediaError
from roadwork_serve.media import open_rgb
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.schema import Box, Evidence, TextLine
from roadwork_serve.stages.options import validated
from roadwork_serve.stages.sign_text import Meaning, SignPhrases, default_phrases

# Log-odds of a sign read with full confidence. A closure or a detour may have other causes than works: a police
# barrier, a flood. Neutral text counts 0; its meaning is left to the policy's calibration. Without text the stage
# abstains.
STRENGTH: dict[Meaning, float] = {"worker": 4.0, "begin": 4.0, "closure": 3.0, "detour": 3.0, "end": -4.0}
MAX_SIDE, FRAMES_READ = 1600, 3


@dataclass(frozen=True, slots=True)
class Phrase:
    """The text of one sign."""

    #: Lines from top to bottom.
    lines: tuple[OcrLine, ...]
    #: Meaning of all lines together.
    meaning: Meaning

    @property
    def logit(self) -> float:
        """Log-odds of the positive label: the strength of the meaning times the mean confidence of the lines."""
        return STRENGTH.get(self.meaning, 0.0) * sum(line.confidence for line in self.lines) / len(self.lines)


class Signs:
    """Reads photos, and a few frames of a clip.

    Options: max_side (larger images are scaled down to this longer side in pixels), frames_read (number of frames of a
    clip, evenly spaced).
    """

    name = "signs"
    sees: StageInput = "images"

    def __init__(self, spec: StageSpec, model: EngineSpec, engine: OcrEngine | None = None) -> None:
        """Load the engine.

        Args:
            spec: Settings of the stage.
            model: Settings of the engine.
            engine: An engine to use instead of loading one, for tests.

        Raises:
            ConfigError: An option is unknown or invalid, or the backend cannot read text.
            ModelError: The model cannot be loaded.
        """
        options = validated(self.name, spec.options, max_side=int, frames_read=int)
        self.model = model
        self.max_side = options.get("max_side", MAX_SIDE)
        self.frames_read = options.get("frames_read", FRAMES_READ)
        self._known = SignPhrases(spec.task.signs)
        self.engine = engine or open_ocr(model)

    def warm(self) -> None:
        """See `Stage`."""
        self.engine.read([_warm_up_image()])

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`. Abstains if there is no text, or no image can be decoded."""
        began = time.perf_counter()
        images = [self._images(item) for item in items]
        opened = time.perf_counter()
        stop_if_cancelled()
        pages = iter(self.engine.read([image for frames in images for _, image in frames]))
        pages_of = [[(frame, next(pages), image.size) for frame, image in frames] for frames in images]
        preprocess_ms, compute_ms = 1000 * (opened - began), 1000 * (time.perf_counter() - opened)
        predictions = []
        for frames in pages_of:
            found = [(frame, size, phrases(lines, self._known)) for frame, lines, size in frames]
            text = [_text_line(line, p, size, frame) for frame, size, some in found for p in some for line in p.lines]
            logit = weigh([phrase for _, _, some in found for phrase in some])
            predictions.append(
                StagePrediction(
                    logit, self.model.model, self.model.miniature, Evidence(text_lines=text), preprocess_ms, compute_ms
                )
            )
        return predictions

    def _images(self, item: Item) -> list[tuple[int, Image.Image]]:
        """Return the frames to read with their indices, without those that cannot be decoded."""
        images = []
        for frame in evenly_spaced(len(item.images), self.frames_read):
            stop_if_cancelled()
            try:
                images.append((frame, open_rgb(item.images[frame], self.max_side)))
            except MediaError:
                continue
        return images


def evenly_spaced(frames: int, wanted: int) -> list[int]:
    """Return the indices of frames in the middle of equal parts of a clip."""
    parts = min(frames, wanted)
    return [(2 * n + 1) * frames // (2 * parts) for n in range(parts)]


def phrases(lines: Sequence[OcrLine], known: SignPhrases | None = None) -> list[Phrase]:
    """Group lines into signs: lines of similar size, below or beside one another, belong to one sign.

    Args:
        lines: The lines of an image.
        known: The phrases to look for; by default those of the default task.
    """
    signs: list[list[OcrLine]] = []
    for line in sorted(lines, key=lambda line: float(line.quad[:, 1].mean())):
        near = [sign for sign in signs if any(_adjacent(line, other) for other in sign)]
        signs = [sign for sign in signs if sign not in near] + [[*(other for sign in near for other in sign), line]]
    known = known or default_phrases()
    ordered = [_in_order(sign) for sign in signs]
    return [Phrase(sign, known.meaning([line.text for line in sign])) for sign in ordered]


def weigh(found: Sequence[Phrase]) -> float | None:
    """Return the log-odds of the positive label from all signs of an item.

    It is 0 if no sign has a meaning for the task, and None if there is no text. The strongest sign for and the
    strongest sign against are added, each once, because the frames of a clip show the same sign again and again. One of
    each cancels out: one site may end where the next begins, and later stages decide.
    """
    logits = [phrase.logit for phrase in found if phrase.meaning != "neutral"]
    if not logits:
        return 0.0 if found else None
    return max(0.0, *logits) + min(0.0, *logits)


def _in_order(lines: Sequence[OcrLine]) -> tuple[OcrLine, ...]:
    """Sort lines by rows, and each row from left to right."""
    rows: list[list[OcrLine]] = []
    for line in sorted(lines, key=lambda line: float(line.quad[:, 1].mean())):
        top, bottom = line.quad[:, 1].min(), line.quad[:, 1].max()
        if rows and top < np.mean([other.quad[:, 1].mean() for other in rows[-1]]) < bottom:
            rows[-1].append(line)
        else:
            rows.append([line])
    return tuple(line for row in rows for line in sorted(row, key=lambda line: float(line.quad[:, 0].mean())))


def _adjacent(one: OcrLine, other: OcrLine) -> bool:
    """Return True if one line continues the other."""
    a, b = _box(one), _box(other)
    tall, small = sorted((_height(one), _height(other)), reverse=True)
    across = min(a[2], b[2]) - max(a[0], b[0])  # overlap; a negative number is a gap
    down = min(a[3], b[3]) - max(a[1], b[1])
    narrow = min(a[2] - a[0], b[2] - b[0])
    stacked = across > 0.4 * narrow and -down < 0.9 * small
    beside = down > 0.5 * small and -across < 0.8 * small
    return tall < 2.2 * small and (stacked or beside)


def _box(line: OcrLine) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = line.quad.min(axis=0), line.quad.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _height(line: OcrLine) -> float:
    """Return the height of the letters, also of a rotated line."""
    return float(np.linalg.norm(line.quad[3] - line.quad[0]) + np.linalg.norm(line.quad[2] - line.quad[1])) / 2


def _text_line(line: OcrLine, phrase: Phrase, size: tuple[int, int], frame: int) -> TextLine:
    shares = np.clip(np.array(_box(line)) / np.array(size * 2), 0, 1).tolist()
    return TextLine(
        text=line.text, confidence=min(1.0, max(0.0, line.confidence)), meaning=phrase.meaning,
        box=Box(x0=shares[0], y0=shares[1], x1=shares[2], y1=shares[3]), frame=frame,
    )  # fmt: skip


def _warm_up_image() -> Image.Image:
    """Return an image with a line of text, so that detection and recognition both run."""
    image = Image.new("RGB", (640, 480), "orange")
    ImageDraw.Draw(image).text((220, 200), "ROAD WORK", "black", ImageFont.load_default(40))
    return image
