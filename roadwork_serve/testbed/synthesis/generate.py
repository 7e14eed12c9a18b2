"""Writes a folder of generated pictures: prompts.jsonl with how each was made, and manifest.csv to train from.

A run that was stopped can be resumed: a picture is complete once its line is in prompts.jsonl.
"""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from roadwork_serve.atomic_write import replace_file, write_text
from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed.synthesis.generated_image import GeneratedImage, ImageGenerator
from roadwork_serve.testbed.synthesis.prompts import ImagePrompt, image_prompts
from roadwork_serve.testbed.synthesis.scene_generator import SceneGenerator

PROMPTS = "prompts.jsonl"
_COLUMNS = ("file", "label", "group", "licence", "source", "hard_negative", "tags")
_RUN_KEYS = ("generator", "model", "run_seed")


@dataclass(frozen=True, slots=True)
class GeneratedSet:
    """The outcome of a run."""

    folder: Path
    #: Number of pictures that an earlier run had made.
    existing: int
    #: Number of pictures made by this run.
    created: int


def open_generator(
    name: str, model: str | None = None, images: Path | None = None, strength: float = 0.6
) -> ImageGenerator:
    """Open the generator scenes, sdxl or cosmos.

    images: for sdxl, a folder of photos to start from. strength: for sdxl, how far it may depart from them, 0 to 1.
    Raises ConfigError for options that do not apply, ModelError when the GPU, a library or the weights are missing.
    """
    if images is not None and name != "sdxl":
        raise ConfigError(f"{name} cannot start from photos; use --generator sdxl, or leave --images out")
    if name == "scenes":
        if model is not None:
            raise ConfigError("scenes are drawn without a model; leave --model out, or use --generator sdxl or cosmos")
        return SceneGenerator()
    from roadwork_serve.testbed.synthesis.diffusion import Cosmos, StableDiffusion

    if name == "sdxl":
        return StableDiffusion(model, images, strength)
    if name == "cosmos":
        return Cosmos(model)
    raise ConfigError(f"there is no generator {name!r}: use scenes, sdxl or cosmos")


def synthesize(
    generator: ImageGenerator, out: Path, count: int, seed: int, on_done: Callable[[], None] = lambda: None
) -> GeneratedSet:
    """Generate the first `count` pictures of a run; existing ones are left as they are. on_done: called after each.

    Raises ConfigError when the folder holds another run, ModelError when the generator fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines = _complete_lines(out)
    run = {"generator": generator.name, "model": generator.model, "run_seed": seed}
    for line in lines.values():
        if any(line[key] != run[key] for key in _RUN_KEYS):
            other = ", ".join(f"{key} {line[key]}" for key in _RUN_KEYS)
            raise ConfigError(f"{out} holds pictures of {other}; give another --out")
    existing = sum(index in lines for index in range(count))
    write_text(out / PROMPTS, "".join(json.dumps(line) + "\n" for line in lines.values()))
    try:
        with (out / PROMPTS).open("a", encoding="utf-8") as file:
            for prompt in image_prompts(seed, count):
                if prompt.index not in lines:
                    line = _generate(generator, prompt, out, seed)
                    lines[prompt.index] = line
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                on_done()
    finally:
        write_text(out / "manifest.csv", _manifest(lines))
    return GeneratedSet(out, existing, count - existing)


def _generate(generator: ImageGenerator, prompt: ImagePrompt, out: Path, seed: int) -> dict[str, Any]:
    image = generator.generate(prompt)
    name = f"{'roadwork' if prompt.label else 'none'}/{generator.name}-{seed}-{prompt.index:06}.jpg"
    with replace_file(out / name) as draft:
        draft.write_bytes(image.jpeg)
    return _line(generator, prompt, image, name, seed)


def _line(
    generator: ImageGenerator, prompt: ImagePrompt, image: GeneratedImage, name: str, seed: int
) -> dict[str, Any]:
    fields = asdict(prompt) | {key: value for key, value in asdict(image).items() if key != "jpeg"}
    run = {"generator": generator.name, "model": generator.model, "licence": generator.licence, "run_seed": seed}
    return {"file": name} | fields | run


def _complete_lines(out: Path) -> dict[int, dict[str, Any]]:
    """Return the lines whose picture exists. The last line may be cut short if the run was killed; it is dropped."""
    path = out / PROMPTS
    found: dict[int, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if (out / line["file"]).is_file():
            found[line["index"]] = line
    return found


def _manifest(lines: Mapping[int, dict[str, Any]]) -> str:
    text = StringIO()
    table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    table.writeheader()
    for _, line in sorted(lines.items()):
        table.writerow(
            {
                "file": line["file"],
                "label": "roadwork" if line["label"] else "none",
                "group": line["group"],
                "licence": line["licence"],
                "source": f"{line['generator']}: {line['model']}",
                "hard_negative": "yes" if line["lookalike"] else "",
                "tags": "; ".join(tag.replace(";", ",") for tag in line["tags"]),
            }
        )
    return text.getvalue()
