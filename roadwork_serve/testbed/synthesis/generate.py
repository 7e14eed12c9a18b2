"""A folder of made-up pictures: prompts.jsonl with how each was made, manifest.csv for whoever learns from it.

A run that was stopped goes on where it was: a picture is there when its line in prompts.jsonl is.
"""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed.synthesis.generators import GeneratedImage, ImageGenerator
from roadwork_serve.testbed.synthesis.prompts import ImagePrompt, image_prompts

PROMPTS = "prompts.jsonl"
_COLUMNS = ("file", "label", "group", "licence", "source", "hard_negative", "tags")
_SAME = ("painter", "model", "run_seed")


@dataclass(frozen=True, slots=True)
class GeneratedSet:
    """there: pictures that had been made before. new: made now."""

    folder: Path
    there: int
    new: int


def synthesize(
    painter: ImageGenerator, out: Path, count: int, seed: int, on_done: Callable[[], None] = lambda: None
) -> GeneratedSet:
    """The first `count` pictures of a run, those that are there left as they are. on_done: called after each.

    Raises ConfigError where the folder holds another run's, ModelError where the painter cannot paint.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines = _there(out)
    for line in lines.values():
        mine = {"painter": painter.name, "model": painter.model, "run_seed": seed}
        if any(line[key] != mine[key] for key in _SAME):
            told = ", ".join(f"{key} {line[key]}" for key in _SAME)
            raise ConfigError(f"{out} holds pictures of {told}; give another --out")
    before = sum(index in lines for index in range(count))
    (out / PROMPTS).write_text("".join(json.dumps(line) + "\n" for line in lines.values()), encoding="utf-8")
    try:
        with (out / PROMPTS).open("a", encoding="utf-8") as file:
            for brief in image_prompts(seed, count):
                if brief.index not in lines:
                    line = _make(painter, brief, out, seed)
                    lines[brief.index] = line
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                on_done()
    finally:
        _whole(out / "manifest.csv", _manifest(lines).encode())
    return GeneratedSet(out, before, count - before)


def _make(painter: ImageGenerator, brief: ImagePrompt, out: Path, seed: int) -> dict[str, Any]:
    made = painter.paint(brief)
    name = f"{'roadwork' if brief.label else 'none'}/{painter.name}-{seed}-{brief.index:06}.jpg"
    (out / name).parent.mkdir(exist_ok=True)
    _whole(out / name, made.jpeg)
    return _line(painter, brief, made, name, seed)


def _line(painter: ImageGenerator, brief: ImagePrompt, made: GeneratedImage, name: str, seed: int) -> dict[str, Any]:
    told = asdict(brief) | {name: value for name, value in asdict(made).items() if name != "jpeg"}
    more = {"painter": painter.name, "model": painter.model, "licence": painter.licence, "run_seed": seed}
    return {"file": name} | told | more


def _there(out: Path) -> dict[int, dict[str, Any]]:
    """Lines whose picture is there. The last one may be cut short, where the run was killed."""
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
                "source": f"{line['painter']}: {line['model']}",
                "hard_negative": "yes" if line["trap"] else "",
                "tags": "; ".join(tag.replace(";", ",") for tag in line["tags"]),
            }
        )
    return text.getvalue()


def _whole(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(data)
    draft.replace(path)
