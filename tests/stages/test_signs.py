from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from roadwork_serve.cascade.prediction import BlockingStage, Item
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.engines.ocr import OcrLine
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages import signs
from roadwork_serve.stages.signs import Signs, evenly_spaced, phrases, weigh
from roadwork_serve.testbed.scenes.effects import to_jpeg
from tests.recording_lock import PausePoint

WIDTH, HEIGHT = 200, 100


def spec(**options: object) -> StageSpec:
    return StageSpec(engine="ocr", options=options)


def ocr(**changes: object) -> EngineSpec:
    return EngineSpec.model_validate({"backend": "rapidocr", "model": "PP-OCRv6-small"} | changes)


def line(text: str, x: float = 20, y: float = 20, width: float = 60, height: float = 10, sure: float = 1.0) -> OcrLine:
    quad = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float32)
    return OcrLine(text, sure, quad)


class FakeReader:
    """Returns the lines at the index given by the grey level of each image."""

    def __init__(self, *pages: Sequence[OcrLine]) -> None:
        self.pages = pages
        self.read_pages: list[int] = []

    def read(self, images: Sequence[Image.Image]) -> list[list[OcrLine]]:
        pages = [round(int(np.asarray(image).mean()) / 20) for image in images]
        self.read_pages += pages
        return [list(self.pages[page]) for page in pages]


def page(n: int) -> bytes:
    return to_jpeg(Image.new("RGB", (WIDTH, HEIGHT), (20 * n,) * 3), 95)


def item(*images: bytes) -> Item:
    times = tuple(n / 2 for n in range(len(images)))
    return Item("r", "photo" if len(images) == 1 else "clip", images, np.zeros((0, 8, 8, 3), np.uint8), times, 1e9)


def logit(*lines: OcrLine) -> float | None:
    stage: BlockingStage = Signs(spec(), ocr(), FakeReader(lines))
    return stage.predict([item(page(0))])[0].logit


def test_road_work_signs_are_strong_evidence_scaled_by_ocr_confidence() -> None:
    assert logit(line("ROAD WORK AHEAD")) == pytest.approx(4.0)
    assert logit(line("ROAD WORK AHEAD", sure=0.75)) == pytest.approx(3.0)
    assert logit(line("DETOUR")) == pytest.approx(3.0)


async def test_a_cancelled_call_decodes_and_reads_no_further_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pause, decode, reader = PausePoint(at=2), signs.open_rgb, FakeReader([])
    monkeypatch.setattr(signs, "open_rgb", lambda *a: pause() or decode(*a))
    stage = ThreadedStage(Signs(spec(), ocr(), reader))
    await pause.cancel_there(stage.predict([item(page(0))] * 5))
    assert pause.steps == 2 and reader.read_pages == []
    await stage.aclose()


def test_an_end_sign_is_strong_evidence_against() -> None:
    assert logit(line("END", y=20), line("ROAD WORK", y=31)) == pytest.approx(-4.0)


def test_no_text_abstains_and_neutral_text_is_no_evidence() -> None:
    assert logit() is None
    assert logit(line("TRAFFIC CALMING", y=20), line("AHEAD", y=31), line("STOP", x=150)) == 0


def test_lines_of_a_diamond_are_read_as_one_phrase() -> None:
    reader = FakeReader([line("AHEAD", y=42), line("ROAD", y=20, x=25, width=40), line("WORK", y=31, x=25, width=40)])
    prediction = Signs(spec(), ocr(), reader).predict([item(page(0))])[0]
    assert prediction.logit == pytest.approx(4.0)
    assert [(word.text, word.meaning) for word in prediction.evidence.text_lines] == [
        ("ROAD", "begin"), ("WORK", "begin"), ("AHEAD", "begin"),
    ]  # fmt: skip


def texts(*lines: OcrLine) -> list[list[str]]:
    return sorted([one.text for one in phrase.lines] for phrase in phrases(lines))


def test_separate_signs_are_separate_phrases() -> None:
    farm, end = [line("FARM", x=0), line("SHOP", x=0, y=31)], [line("END", x=120), line("ROAD WORK", x=120, y=31)]
    assert texts(farm[0], end[0], farm[1], end[1]) == [["END", "ROAD WORK"], ["FARM", "SHOP"]]
    assert texts(line("ROAD", y=0), line("WORK", y=60)) == [["ROAD"], ["WORK"]]


def test_words_on_one_line_are_read_from_the_left() -> None:
    assert texts(line("WORK", x=66, y=21, width=40), line("ROAD", x=20, width=40)) == [["ROAD", "WORK"]]


def test_small_print_under_large_letters_is_a_separate_phrase() -> None:
    assert texts(line("ROAD", height=30), line("Smith Ltd", y=52, height=6)) == [["ROAD"], ["Smith Ltd"]]


def test_a_line_between_two_others_joins_them() -> None:
    assert texts(line("ROAD", y=20), line("AHEAD", y=42), line("WORK", y=31)) == [["ROAD", "WORK", "AHEAD"]]


def test_the_same_words_on_two_signs_stay_two_signs() -> None:
    assert texts(line("DETOUR", x=0), line("DETOUR", x=140), line("AHEAD", x=0, y=31)) == [
        ["DETOUR"],
        ["DETOUR", "AHEAD"],
    ]


def test_no_lines_are_no_phrases_and_no_evidence() -> None:
    assert phrases([]) == []
    assert weigh([]) is None


def test_begin_and_end_signs_cancel_out() -> None:
    assert logit(line("ROAD WORK AHEAD"), line("END ROAD WORK", y=80)) == pytest.approx(0.0)


def test_one_sign_seen_on_many_frames_counts_once() -> None:
    reader = FakeReader([], [line("ROAD WORK", sure=0.8)], [line("ROAD WORK", sure=0.9)], [])
    prediction = Signs(spec(), ocr(), reader).predict([item(page(0), page(1), page(2))])[0]
    assert prediction.logit == pytest.approx(3.6)
    assert [word.frame for word in prediction.evidence.text_lines] == [1, 2]


def test_a_few_frames_of_a_clip_are_read() -> None:
    reader = FakeReader(*([] for _ in range(8)))
    clip = item(*(page(n) for n in range(8)))
    Signs(spec(), ocr(), reader).predict([clip])
    assert reader.read_pages == [1, 4, 6]
    Signs(spec(frames_read=1), ocr(), reader).predict([clip])
    assert reader.read_pages[3:] == [4]


@pytest.mark.parametrize(("frames", "wanted", "read"), [(1, 3, [0]), (2, 3, [0, 1]), (9, 3, [1, 4, 7]), (0, 3, [])])
def test_frames_are_evenly_spread(frames: int, wanted: int, read: list[int]) -> None:
    assert evenly_spaced(frames, wanted) == read


def test_an_undecodable_item_abstains_alone() -> None:
    stage = Signs(spec(), ocr(), FakeReader([line("DETOUR")]))
    broken, fine = stage.predict([item(page(0)[:80]), item(page(0))])
    assert broken.logit is None and broken.evidence.text_lines == []
    assert fine.logit == pytest.approx(3.0)
    assert stage.predict([item(b"no picture", page(0))])[0].logit == pytest.approx(3.0)


def test_text_lines_have_their_position() -> None:
    reader = FakeReader([line("DETOUR", x=50, y=20, width=100, height=30, sure=0.9)])
    prediction = Signs(spec(), ocr(), reader).predict([item(page(0))])[0]
    (word,) = prediction.evidence.text_lines
    assert (word.box.x0, word.box.y0, word.box.x1, word.box.y1) == pytest.approx((0.25, 0.2, 0.75, 0.5))
    assert (word.confidence, word.meaning, word.frame) == (0.9, "detour", 0)
    assert prediction.model == "PP-OCRv6-small" and not prediction.miniature


def test_text_at_the_edge_stays_inside_the_image() -> None:
    prediction = Signs(spec(), ocr(), FakeReader([line("DETOUR", x=150, width=60, sure=1.0000001)])).predict(
        [item(page(0))]
    )[0]
    assert prediction.evidence.text_lines[0].box.x1 == 1.0


@pytest.mark.parametrize(
    ("wrong", "model", "message"),
    [
        (spec(max_pixels=3), ocr(), "no option 'max_pixels'"),
        (spec(max_side="736"), ocr(), "options.max_side"),
        (spec(), ocr(backend="onnx"), "onnx cannot run OCR"),
    ],
)
def test_invalid_settings_are_rejected(wrong: StageSpec, model: EngineSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Signs(wrong, model)


def test_unknown_weights_are_rejected() -> None:
    with pytest.raises(ModelError, match="PP-OCRv6-small"):
        Signs(spec(), ocr(model="PP-OCRv9-huge"))


def diamond(*lines: str) -> bytes:
    """Return a work-zone sign of 110 px in an image of 800x600."""
    picture = Image.new("RGB", (800, 600), (110, 140, 170))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 330, 800, 600), (90, 90, 92))
    draw.polygon([(600, 225), (655, 280), (600, 335), (545, 280)], (244, 122, 28), "black")
    draw.multiline_text((600, 280), "\n".join(lines), "black", ImageFont.load_default(19), "mm", 0, "center")
    return to_jpeg(picture, 85)


def test_real_ocr_reads_signs() -> None:
    stage = Signs(spec(), ocr())
    stage.warm()
    predictions = stage.predict([item(diamond("ROAD", "WORK", "AHEAD")), item(diamond("END", "ROAD", "WORK"))])
    assert [prediction.logit for prediction in predictions] == pytest.approx([4.0, -4.0], abs=0.4)
    assert all(prediction.compute_ms > 0 and prediction.preprocess_ms > 0 for prediction in predictions)
