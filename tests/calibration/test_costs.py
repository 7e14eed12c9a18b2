from pathlib import Path

import pytest

from roadwork_serve.calibration.costs import read_costs
from roadwork_serve.calibration.trajectories import trajectories
from roadwork_serve.errors import ConfigError
from tests.calibration.synthetic_rows import synthetic_rows
from tests.evaluation.fakes import POLICY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "costs.yaml"
    path.write_text("backbone: {photo: 1, clip: 8}\nsigns: 5\nvlm: 100\nreasoner: 1000\nvideo: {clip: 300}\n")
    return path


def test_trajectory_costs_come_from_the_file(file: Path) -> None:
    rows = synthetic_rows(100)
    price = read_costs(file)
    photos, clips = ([row for row in rows if row.metadata.kind == kind] for kind in ("photo", "clip"))
    whole = trajectories(photos, POLICY, "photo", price)
    assert set(whole.cost[:, -1]) == {1101.0, 1106.0}  # without and with the sign reader
    assert set(trajectories(clips, POLICY, "clip", price).cost[:, -1]) == {308.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("radar: 1", "radar is not a known field; remove it, or use one of backbone"),
        ("vlm: cheap", r"vlm\.photo is 'cheap'; it should be a valid number"),
        ("vlm: {clip: -1}", r"vlm\.clip is -1; it should be greater than or equal to 0"),
        ("vlm: {song: 1}", r"vlm\.song is not a known field; .* clip, photo"),
        ("[1, 2]", "it should be a mapping"),
        ("a: b: c", "cannot be read"),
    ],
)
def test_an_invalid_file_is_rejected_with_the_entry_to_fix(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_costs(file)


def test_a_stage_without_a_cost_is_an_error(file: Path) -> None:
    file.write_text("{backbone: 1, signs: 5}")
    with pytest.raises(ConfigError, match="vlm has no price for a photo; add one"):
        trajectories(synthetic_rows(5), POLICY, "photo", read_costs(file))
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        read_costs(file.with_name("nowhere.yaml"))
