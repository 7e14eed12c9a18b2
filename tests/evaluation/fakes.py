"""Stages that judge by colour: the redder an image, the more road work. No models, no weights."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.prediction import Item, Stage, StageInput, StagePrediction
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.schema import Evidence, TextLine
from roadwork_serve.testbed.scene_dataset import draw_scene

POLICY = Policy.parse(
    {
        "version": "test-1",
        "photo": [
            {"stage": "backbone", "exit": [0.1, 0.9]},
            {"stage": "signs", "exit": [0.1, 0.9], "min_text_probability": 0.5},
            {"stage": "vlm", "exit": [0.1, 0.9]},
            {"stage": "reasoner", "exit": [0.5, 0.5]},
        ],
        "clip": [{"stage": "backbone", "exit": [0.1, 0.9]}, {"stage": "video", "exit": [0.5, 0.5]}],
    }
)

RED, PINK, GREY, PALE, BLUE = (220, 40, 40), (150, 128, 122), (128, 128, 128), (122, 128, 150), (40, 40, 220)


STRENGTH = {"backbone": 5.0, "vlm": 20.0, "reasoner": 50.0, "video": 50.0}


class ByColour:
    """Logit: the strength of this stage times red less blue. Later stages are stronger; signs always abstain."""

    sees: StageInput = "both"

    def __init__(self, name: str, model: EngineSpec) -> None:
        self.name = name
        self._model = model
        self.warmed = 0

    def warm(self) -> None:
        self.warmed += 1

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        return [self._prediction(item) for item in items]

    def _prediction(self, item: Item) -> StagePrediction:
        redness = float(np.mean(item.thumbs[..., 0].astype(float) - item.thumbs[..., 2])) / 255
        if self.name == "signs":
            word = TextLine(
                text="[FESTIVAL]", confidence=0.9, meaning="neutral", box={"x0": 0, "y0": 0, "x1": 1, "y1": 1}
            )  # type: ignore[arg-type]
            return StagePrediction(None, self._model.model, evidence=Evidence(text_lines=[word]))
        evidence = (
            Evidence(text_probability=0.9 if abs(redness) < 0.05 else 0.1) if self.name == "backbone" else Evidence()
        )
        return StagePrediction(STRENGTH[self.name] * redness, self._model.model, self._model.miniature, evidence)


def open_by_colour(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
    return {name: ThreadedStage(ByColour(name, engine)) for name in users}


def profile() -> Profile:
    return load_profile("mini")


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (320, 240)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG", quality=95)
    return out.getvalue()


def write_jpeg(path: Path, colour: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(colour))
    return path


def mp4(colour: tuple[int, int, int], frames: int = 12) -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (160, 128), colour))))
        container.mux(stream.encode())
    return out.getvalue()


def row(
    name: str = "a",
    label: bool = True,
    probability: float = 0.9,
    exit_stage: str = "backbone",
    records: dict[str, tuple[float | None, float | None]] | None = None,
    metadata: SampleMetadata | None = None,
    text_probability: float | None = None,
) -> EvaluationRow:
    """Return a row. records: (logit, posterior) by stage; the posterior is None for a stage run for comparison only."""
    by_stage = {"backbone": (2.0, probability)} if records is None else records
    return EvaluationRow(
        metadata or SampleMetadata(name, "photo", label),
        probability,
        probability >= 0.5,
        exit_stage,
        "above_band",
        False,
        tuple(
            StageRecord(
                stage, logit, posterior, f"model-{stage}", True, text_probability if stage == "backbone" else None
            )
            for stage, (logit, posterior) in by_stage.items()
        ),
    )


def judge_by_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands over these stages in this process, with tables that no terminal width truncates."""
    monkeypatch.setattr("roadwork_serve.local_cascade.open_stages", open_by_colour)
    monkeypatch.setattr(
        "roadwork_serve.testbed.scene_dataset.draw_scenes",
        lambda wanted, workers: (draw_scene(*scene) for scene in wanted),
    )
    monkeypatch.setenv("COLUMNS", "200")


def write_policy(path: Path) -> str:
    """Write the policy of these stages to a file."""
    path.write_text(yaml.safe_dump(POLICY.to_mapping()))
    return str(path)
