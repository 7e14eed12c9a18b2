"""A stage of the tests' own, as a package would add it by an entry point."""

from collections.abc import Sequence
from pathlib import Path

from roadwork_serve.cascade.prediction import Item, StageInput, StagePrediction
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_kinds import GROUP, StageKind
from roadwork_serve.profiles.stage_spec import StageSpec


class Darkness:
    """Takes dark thumbnails for positive."""

    sees: StageInput = "thumbs"

    def __init__(self, name: str, spec: StageSpec, model: EngineSpec, engine: None) -> None:
        self.name, self.model, self.task = name, model, spec.task

    def warm(self) -> None:
        pass

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        means = [float(item.thumbs.mean()) / 255 for item in items]
        return [StagePrediction(12 * (0.5 - mean), self.model.model, self.model.miniature) for mean in means]


KIND = StageKind(open=Darkness, photo_gflop=0.5, clip_gflop=None)


def install(folder: Path, name: str = "darkness", value: str = "tests.own_stage:KIND") -> None:
    """Make a distribution with the entry point in a folder, which has to be on the path."""
    metadata = folder / "own_stage-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-stage\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")
