import json
from pathlib import Path

import pytest

from roadwork_serve.datasets.registry import open_dataset
from roadwork_serve.datasets.samples import Sample
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.testbed.synthesis.generate import PROMPTS, synthesize
from roadwork_serve.testbed.synthesis.generators import GeneratedImage
from roadwork_serve.testbed.synthesis.prompts import ImagePrompt
from tests.evaluation.fakes import BLUE, RED, jpeg


class Plain:
    """Red for road work, blue for none; breaks after so many."""

    name, model, licence = "plain", "two colours", "CC0"

    def __init__(self, until: int = 1000) -> None:
        self.painted: list[int] = []
        self.until = until

    def paint(self, brief: ImagePrompt) -> GeneratedImage:
        if len(self.painted) >= self.until:
            raise ModelError("the card is gone")
        self.painted.append(brief.index)
        group = f"start {brief.index // 2}"
        return GeneratedImage(
            jpeg(RED if brief.label else BLUE), brief.seed, brief.tags, brief.prompt, brief.without, group
        )


def test_an_album_is_read_as_data(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 8, seed=3)
    dataset = open_dataset(str(tmp_path))
    abouts = [each.about for each in dataset.listed()]
    assert [about.label for about in abouts] == [True, False] * 4
    assert [about.hard_negative for about in abouts] == [False, False, False, True] * 2
    assert {about.licence for about in abouts} == {"CC0"}
    assert abouts[0].group == abouts[1].group != abouts[2].group
    assert "cone" in abouts[0].tags
    samples = list(dataset.samples(dataset.listed()))
    assert isinstance(samples[0], Sample) and samples[0].data == jpeg(RED)


def test_prompts_and_seeds_are_recorded(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 4, seed=3)
    lines = [json.loads(line) for line in (tmp_path / PROMPTS).read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert all(line["prompt"] and line["without"] and line["seed"] for line in lines)
    assert (tmp_path / lines[0]["file"]).is_file()


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    first, second = Plain(until=3), Plain()
    with pytest.raises(ModelError, match="the card is gone"):
        synthesize(first, tmp_path, 6, seed=1)
    assert len(open_dataset(str(tmp_path)).listed()) == 3
    with (tmp_path / PROMPTS).open("a") as file:
        file.write('{"file": "cut sho')
    done: list[None] = []
    album = synthesize(second, tmp_path, 6, 1, lambda: done.append(None))
    assert (album.there, album.new, second.painted, len(done)) == (3, 3, [3, 4, 5], 6)
    assert len((tmp_path / PROMPTS).read_text().splitlines()) == 6


def test_a_picture_that_has_gone_is_made_again(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 4, seed=1)
    (lost, *_) = sorted((tmp_path / "roadwork").iterdir())
    lost.unlink()
    again = Plain()
    synthesize(again, tmp_path, 4, seed=1)
    assert again.painted == [0]
    assert lost.is_file()


def test_a_shorter_run_leaves_what_is_there(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 6, seed=1)
    album = synthesize(Plain(), tmp_path, 2, seed=1)
    assert (album.there, album.new) == (2, 0)
    assert len(open_dataset(str(tmp_path)).listed()) == 6


def test_runs_are_not_mixed(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 2, seed=1)
    with pytest.raises(ConfigError, match=r"holds pictures of painter plain.*run_seed 1; give another --out"):
        synthesize(Plain(), tmp_path, 2, seed=2)
