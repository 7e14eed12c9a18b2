import json
from pathlib import Path

import pytest

from roadwork_serve.datasets.registry import open_dataset
from roadwork_serve.datasets.samples import Sample
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.testbed.synthesis.generate import PROMPTS, synthesize
from roadwork_serve.testbed.synthesis.generated_image import GeneratedImage
from roadwork_serve.testbed.synthesis.prompts import ImagePrompt
from tests.evaluation.fakes import BLUE, RED, jpeg


class Plain:
    """A generator of red images for road work and blue ones for none; fails after a given number."""

    name, model, licence = "plain", "two colours", "CC0"

    def __init__(self, until: int = 1000) -> None:
        self.generated: list[int] = []
        self.until = until

    def generate(self, prompt: ImagePrompt) -> GeneratedImage:
        if len(self.generated) >= self.until:
            raise ModelError("the GPU is gone")
        self.generated.append(prompt.index)
        group = f"start {prompt.index // 2}"
        return GeneratedImage(
            jpeg(RED if prompt.label else BLUE), prompt.seed, prompt.tags, prompt.prompt, prompt.negative_prompt, group
        )


def test_generated_images_can_be_read_as_a_dataset(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 8, seed=3)
    dataset = open_dataset(str(tmp_path))
    found = [each.metadata for each in dataset.items()]
    assert [metadata.label for metadata in found] == [True, False] * 4
    assert [metadata.hard_negative for metadata in found] == [False, False, False, True] * 2
    assert {metadata.licence for metadata in found} == {"CC0"}
    assert found[0].group == found[1].group != found[2].group
    assert "cone" in found[0].tags
    samples = list(dataset.samples(dataset.items()))
    assert isinstance(samples[0], Sample) and samples[0].data == jpeg(RED)


def test_prompts_and_seeds_are_recorded(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 4, seed=3)
    lines = [json.loads(line) for line in (tmp_path / PROMPTS).read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert all(line["prompt"] and line["negative_prompt"] and line["seed"] for line in lines)
    assert (tmp_path / lines[0]["file"]).is_file()


def test_a_stopped_run_resumes(tmp_path: Path) -> None:
    first, second = Plain(until=3), Plain()
    with pytest.raises(ModelError, match="the GPU is gone"):
        synthesize(first, tmp_path, 6, seed=1)
    assert len(open_dataset(str(tmp_path)).items()) == 3
    with (tmp_path / PROMPTS).open("a") as file:
        file.write('{"file": "cut sho')
    done: list[None] = []
    album = synthesize(second, tmp_path, 6, 1, lambda: done.append(None))
    assert (album.existing, album.created, second.generated, len(done)) == (3, 3, [3, 4, 5], 6)
    assert len((tmp_path / PROMPTS).read_text().splitlines()) == 6


def test_a_deleted_image_is_generated_again(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 4, seed=1)
    (lost, *_) = sorted((tmp_path / "roadwork").iterdir())
    lost.unlink()
    again = Plain()
    synthesize(again, tmp_path, 4, seed=1)
    assert again.generated == [0]
    assert lost.is_file()


def test_a_shorter_run_keeps_existing_images(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 6, seed=1)
    album = synthesize(Plain(), tmp_path, 2, seed=1)
    assert (album.existing, album.created) == (2, 0)
    assert len(open_dataset(str(tmp_path)).items()) == 6


def test_runs_are_not_mixed(tmp_path: Path) -> None:
    synthesize(Plain(), tmp_path, 2, seed=1)
    with pytest.raises(ConfigError, match=r"holds pictures of generator plain.*run_seed 1; give another --out"):
        synthesize(Plain(), tmp_path, 2, seed=2)
