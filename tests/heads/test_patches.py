"""Patch heads from boxes."""

import json
from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.datasets.registry import open_dataset
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.errors import ConfigError
from roadwork_serve.heads.patches import cell_evidence, read_boxes, train_patch_head
from roadwork_serve.profiles.media_limits import MediaLimits
from tests.engines.tiny import ARCHITECTURES, tiny_backbone
from tests.evaluation.fakes import BLUE, RED, write_jpeg


def test_boxes_mark_the_cells_they_cover() -> None:
    found = cell_evidence([[1, 0.0, 0.0, 0.5, 0.26], [0, 0.9, 0.9, 0.92, 0.92]], 4, 2).reshape(4, 4, 2)
    assert np.argwhere(found[..., 1]).tolist() == [[0, 0], [0, 1]]
    assert np.argwhere(found[..., 0]).tolist() == [[3, 3]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1"),
        ('{"file": "a.jpg"}', "line 1: .boxes."),
        ('{"file": "a.jpg", "boxes": [["cone", 0, 0, 2, 1]]}', "no part of the picture"),
        ('{"file": "a.jpg", "boxes": [["cone", 0.5, 0, 0.5, 1]]}', "no part of the picture"),
        ('{"file": "a.jpg", "boxes": [["cone", 0, 0, 1]]}', "corners as shares"),
        ('{"file": "a.jpg", "boxes": []}', "has no box"),
    ],
)
def test_a_bad_file_of_boxes_is_an_error_with_the_line(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "boxes.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(ConfigError, match=message):
        read_boxes(file)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_backbone_of_the_family_trains_one(name: str, tmp_path: Path) -> None:
    for at in range(4):
        write_jpeg(tmp_path / f"data/roadwork/r{at}.jpg", RED)
        write_jpeg(tmp_path / f"data/none/n{at}.jpg", BLUE)
    write_jpeg(tmp_path / "data/roadwork/unmarked.jpg", BLUE)
    file = tmp_path / "boxes.jsonl"
    file.write_text("".join(
        json.dumps({"file": f"roadwork/r{at}.jpg", "boxes": [["drum", 0, 0, 1, 1]]}) + "\n" for at in range(4)
    ))  # fmt: skip
    engine = FeatureEngine(tiny_backbone(name, tmp_path / name), compile=False)
    limits = MediaLimits(thumb_side=engine.side)
    head, report = train_patch_head(engine, [open_dataset(str(tmp_path / "data"))], read_boxes(file), limits)
    assert (report.classes, report.boxed, report.empty) == (("drum",), 4, 4)
    red, blue = (head(engine.module.tokens(_flat(colour, engine.side))[:, 1:]).max().item() for colour in (RED, BLUE))
    assert red > 0 > blue


def test_boxes_that_name_no_photo_are_an_error(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "data/none/a.jpg", BLUE)
    write_jpeg(tmp_path / "data/roadwork/c.jpg", RED)
    file = tmp_path / "boxes.jsonl"
    file.write_text('{"file": "b.jpg", "boxes": [["cone", 0, 0, 1, 1]]}\n')
    engine = FeatureEngine(tiny_backbone(next(iter(ARCHITECTURES)), tmp_path / "tiny"), compile=False)
    data = [open_dataset(str(tmp_path / "data"))]
    with pytest.raises(ConfigError, match="no photo of the data is named in the boxes"):
        train_patch_head(engine, data, read_boxes(file), MediaLimits(thumb_side=engine.side))


def _flat(colour: tuple[int, int, int], side: int):  # type: ignore[no-untyped-def]
    import torch

    return torch.tensor(colour, dtype=torch.uint8).expand(1, side, side, 3)
