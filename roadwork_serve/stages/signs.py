"""Stage 2A: reads the signs. Words are strong evidence for works, an end sign strong evidence against, silence none."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.engines.ocr import OcrEngine, OcrLine
from roadwork_serve.errors import ConfigError, MediaError
from roadwork_serve.media import open_rgb
from roadwork_serve.profiles.profile import EngineSpec, StageSpec
from roadwork_serve.schema import Box, Evidence, TextLine
from roadwork_serve.stages.options import validated
from roadwork_serve.stages.sign_text import Meaning, sign_meaning

# Log-odds a surely read sign is worth. A closure or a detour may have other causes than works: a police
# barrier, a flood. Neutral words are worth nothing by themselves: what it means that a sign speaks of something
# else is for the policy's calibrator to learn. Silence is no answer.
STRENGTH: dict[Meaning, float] = {"worker": 4.0, "begin": 4.0, "closure": 3.0, "detour": 3.0, "end": -4.0}
MAX_SIDE, FRAMES_READ = 1600, 3


@dataclass(frozen=True, slots=True)
class Phrase:
    """Lines that belong to one sign, from top to bottom, and what they say together."""

    lines: tuple[OcrLine, ...]
    meaning: Meaning

    @property
    def logit(self) -> float:
        """Evidence of works: the meaning's strength times how surely it was read."""
        return STRENGTH.get(self.meaning, 0.0) * sum(line.confidence for line in self.lines) / len(self.lines)


class Signs:
    """Reads photos, and a few frames of a clip.

    reader: reads instead of the engine that model names.

    Options: max_side (larger pictures are shrunk to this before anything is read), frames_read (of a clip, evenly
    spread).
    """

    name = "signs"
    sees: StageInput = "images"

    def __init__(self, spec: StageSpec, model: EngineSpec, reader: OcrEngine | None = None) -> None:
        options = validated(self.name, spec.options, max_side=int, frames_read=int)
        self.model = model
        self.max_side = options.get("max_side", MAX_SIDE)
        self.frames_read = options.get("frames_read", FRAMES_READ)
        self.reader = reader or _open(model)

    def warm(self) -> None:
        """See `Stage`."""
        self.reader.read([_made_up()])

    def judge(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`. Abstains when nothing is read, or nothing can be decoded."""
        began = time.perf_counter()
        pictures = [self._pictures(item) for item in items]
        opened = time.perf_counter()
        stop_if_cancelled()
        pages = iter(self.reader.read([picture for some in pictures for _, picture in some]))
        read = [[(frame, next(pages), picture.size) for frame, picture in some] for some in pictures]
        preprocess_ms, compute_ms = 1000 * (opened - began), 1000 * (time.perf_counter() - opened)
        opinions = []
        for frames in read:
            found = [(frame, size, phrases(lines)) for frame, lines, size in frames]
            words = [_words(line, p, size, frame) for frame, size, some in found for p in some for line in p.lines]
            logit = weigh([phrase for _, _, some in found for phrase in some])
            opinions.append(
                StagePrediction(
                    logit, self.model.model, self.model.miniature, Evidence(words=words), preprocess_ms, compute_ms
                )
            )
        return opinions

    def _pictures(self, item: Item) -> list[tuple[int, Image.Image]]:
        """The frames to read that can be decoded, by their index."""
        pictures = []
        for frame in evenly_spaced(len(item.images), self.frames_read):
            stop_if_cancelled()
            try:
                pictures.append((frame, open_rgb(item.images[frame], self.max_side)))
            except MediaError:
                continue
        return pictures


def _open(model: EngineSpec) -> OcrEngine:
    match model.runs:
        case "rapidocr":
            from roadwork_serve.engines.rapidocr import RapidOcr

            return RapidOcr(model.model, threads=model.threads, side=model.reader.side)
        case "transformers":
            from roadwork_serve.engines.florence import Florence2

            return Florence2(
                model.model,
                dtype=model.dtype,
                device=model.device,
                threads=model.threads,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                gpu_memory_gib=model.gpu_memory_gib,
            )
        case _:
            raise ConfigError(f"stages.signs: {model.runs} reads no signs; use rapidocr or transformers")


def evenly_spaced(frames: int, wanted: int) -> list[int]:
    """Which frames to look at: evenly spread, each in the middle of its part of the clip."""
    parts = min(frames, wanted)
    return [(2 * n + 1) * frames // (2 * parts) for n in range(parts)]


def phrases(lines: Sequence[OcrLine]) -> list[Phrase]:
    """Lines grouped by where they stand: those of about one size, below or beside one another, are one sign."""
    signs: list[list[OcrLine]] = []
    for line in sorted(lines, key=lambda line: float(line.quad[:, 1].mean())):
        near = [sign for sign in signs if any(_together(line, other) for other in sign)]
        signs = [sign for sign in signs if sign not in near] + [[*(other for sign in near for other in sign), line]]
    return [_phrase(_in_order(sign)) for sign in signs]


def weigh(found: Sequence[Phrase]) -> float | None:
    """Log-odds of works from all the signs of an item; 0 when none is about works, None when there is none.

    The strongest sign for and the strongest sign against are added, however many times each was seen: the frames
    of a clip show one sign again and again. One of each cancels out, for the end of one site may be the start
    of the next, and the later stages decide on what they see.
    """
    logits = [phrase.logit for phrase in found if phrase.meaning != "neutral"]
    if not logits:
        return 0.0 if found else None
    return max(0.0, *logits) + min(0.0, *logits)


def _phrase(lines: tuple[OcrLine, ...]) -> Phrase:
    return Phrase(lines, sign_meaning([line.text for line in lines]))


def _in_order(lines: Sequence[OcrLine]) -> tuple[OcrLine, ...]:
    """Row by row, each from left to right."""
    rows: list[list[OcrLine]] = []
    for line in sorted(lines, key=lambda line: float(line.quad[:, 1].mean())):
        top, bottom = line.quad[:, 1].min(), line.quad[:, 1].max()
        if rows and top < np.mean([other.quad[:, 1].mean() for other in rows[-1]]) < bottom:
            rows[-1].append(line)
        else:
            rows.append([line])
    return tuple(line for row in rows for line in sorted(row, key=lambda line: float(line.quad[:, 0].mean())))


def _together(one: OcrLine, other: OcrLine) -> bool:
    """Whether two lines stand so that one reads on from the other."""
    a, b = _box(one), _box(other)
    tall, small = sorted((_height(one), _height(other)), reverse=True)
    across = min(a[2], b[2]) - max(a[0], b[0])  # how far they overlap; below zero the gap between them
    down = min(a[3], b[3]) - max(a[1], b[1])
    narrow = min(a[2] - a[0], b[2] - b[0])
    stacked = across > 0.4 * narrow and -down < 0.9 * small
    beside = down > 0.5 * small and -across < 0.8 * small
    return tall < 2.2 * small and (stacked or beside)


def _box(line: OcrLine) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = line.quad.min(axis=0), line.quad.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _height(line: OcrLine) -> float:
    """Of the letters, also on a line that leans."""
    return float(np.linalg.norm(line.quad[3] - line.quad[0]) + np.linalg.norm(line.quad[2] - line.quad[1])) / 2


def _words(line: OcrLine, phrase: Phrase, size: tuple[int, int], frame: int) -> TextLine:
    shares = np.clip(np.array(_box(line)) / np.array(size * 2), 0, 1).tolist()
    return TextLine(
        text=line.text, confidence=min(1.0, max(0.0, line.confidence)), meaning=phrase.meaning,
        box=Box(x0=shares[0], y0=shares[1], x1=shares[2], y1=shares[3]), frame=frame,
    )  # fmt: skip


def _made_up() -> Image.Image:
    """A picture with a line of text, so that both of the reader's models run."""
    picture = Image.new("RGB", (640, 480), "orange")
    ImageDraw.Draw(picture).text((220, 200), "ROAD WORK", "black", ImageFont.load_default(40))
    return picture
