"""Measures the miniatures through the stages that serve them, and writes their model cards."""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open

from roadwork_serve import media
from roadwork_serve.atomic_write import write_text
from roadwork_serve.cascade.prediction import Item, StagePrediction
from roadwork_serve.engines.weights import WEIGHTS
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.stages.load import open_stages
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.minis import data
from roadwork_serve.testbed.minis.accuracy import accuracies
from roadwork_serve.testbed.scenes.truth import Truth

REPORT_SEEDS = 3_000_000_000  # used for nothing else: not for training, checks, calibration or evaluation
OUT = Path("build/model-cards")  # never the package: its cards describe the weights that ship
STAGES: dict[str, tuple[StageName, ...]] = {"backbone": ("backbone",), "vlm": ("vlm", "reasoner"), "video": ("video",)}
DESCRIPTIONS = {
    "backbone": "DINOv3 ViT/16 with a head of two outputs: active road work, and readable text",
    "vlm": "Qwen3-VL; answers YES or NO at once, or after a short reasoning text",
    "video": "Molmo 2; answers YES or NO from four frames of a clip with their times",
}
CARD = """# bundled:{name}
{what}.

{millions:.1f} M parameters, fp16. The class and the checkpoint layout are those of the production model; only
the sizes differ. The `.onnx` files are graphs over the same weights, for ONNX Runtime (`roadwork export --format
graphs`).

## Not for
Real decisions. A miniature was trained on rendered scenes so that the whole system can be tried without a GPU and
without a download. It has seen few variants of cones, workers and machines, and is often wrong on real photos.

## Training
- {scenes:,} {kind} of the project's own renderer (seeds 1 to {scenes:,}, renderer {renderer}), {samples:,} samples in
  {steps:,} steps, {minutes:g} minutes on one or two CPU cores, seed {seed}.
- An auxiliary loss classified each patch; its layers are dropped.{start}{real}

## Accuracy
{count} {kind} from seed {first:,} on, none of them trained on, run through the code that serves the stage.
Accuracy at P = 0.5, by the cheapest stage that can know the label:

{table}
Reproduce with `roadwork minis train {name}` and `roadwork minis report`.
"""
REAL = """
- About 3 % real photos: {photos} rows and clip frames of the project's photo folder with an ODC-By, MIT or CC BY
  licence (CMU ROADWork, attribution to Carnegie Mellon University, ODC-By 1.0; see NOTICE).
  Held out: {held_out}. `roadwork evaluate` scores no photo of the sources in `training.json`."""
START = "\n- Its vision tower started from the weights of bundled:backbone."
TOWER = """
- Its vision tower started from the weights of bundled:backbone and was pre-trained: {samples:,} crops in
  {minutes:g} minutes."""


def main(out: Path = OUT, photos: int = 400, clips: int = 160) -> None:
    """Measure every miniature that is installed, print its card, and write it to out/NAME.md."""
    for name, stages in STAGES.items():
        if (WEIGHTS / name / "config.json").exists():
            card = describe(name, stages, clips if name == "video" else photos)
            write_text(out / f"{name}.md", card)
            print(card)


def describe(name: str, stages: Sequence[StageName], count: int) -> str:
    """Return the model card of a miniature, measured now."""
    kind = "clips" if name == "video" else "photos"
    items, truths = zip(*_scenes(kind, count), strict=True)
    rows = [_measure(stage, items, truths) for stage in stages]
    columns = sorted({key for row in rows for key in row[1]})
    table = "| stage | " + " | ".join(f"{c} ({rows[0][1][c][1]})" for c in columns) + " | ms an item |\n"
    table += "|---" * (len(columns) + 2) + "|\n"
    for stage, found, ms in rows:
        table += f"| {stage} | " + " | ".join(f"{found[c][0]:.3f}" for c in columns) + f" | {ms:.0f} |\n"
    training = json.loads((WEIGHTS / name / "training.json").read_text())
    folder = data.photos_folder()
    tower = training.pop("tower", None)
    start = "" if name == "backbone" else TOWER.format(**tower) if tower else START
    real = ""
    if name != "video" and folder:
        held_out = ", ".join(sorted(g for g in data.HELD_OUT_GROUPS if g.startswith("clip_")))
        real = REAL.format(photos=len(list(data.real_photos(folder))), held_out=held_out)
    return CARD.format(
        name=name, what=DESCRIPTIONS[name], millions=_parameters(WEIGHTS / name) / 1e6, kind=kind, count=count,
        first=REPORT_SEEDS, table=table, real=real, start=start, **training,
    )  # fmt: skip


def _scenes(kind: str, count: int) -> Iterator[tuple[Item, Truth]]:
    for seed in range(REPORT_SEEDS, REPORT_SEEDS + count):
        if kind == "clips":
            scene = scenes.clip(seed)
            encoded = scene.mp4()
        else:
            scene = scenes.photo(seed)
            encoded = scene.jpeg()
        yield Item.of(media.read(encoded, MediaLimits()), str(seed), float("inf")), scene.truth


def _measure(
    name: StageName, items: Sequence[Item], truths: Sequence[Truth]
) -> tuple[str, dict[str, tuple[float, int]], float]:
    predictions, ms = asyncio.run(_predictions(name, items))
    for prediction, truth in random.Random(1).sample(list(zip(predictions, truths, strict=True)), 3):  # noqa: S311 - not used for security
        if prediction.evidence.reasoning is not None:
            print(f"{truth.activity}, {truth.label}: {prediction.evidence.reasoning} -> {prediction.logit:.2f}")
    logits = np.array([0.0 if o.logit is None else o.logit for o in predictions])
    return name, accuracies(1 / (1 + np.exp(-logits)), truths), ms


async def _predictions(name: StageName, items: Sequence[Item]) -> tuple[list[StagePrediction], float]:
    """Return the predictions of a stage of the profile mini, and milliseconds an item."""
    profile = load_profile("mini")
    engine = profile.engine_of(name).model_copy(update={"threads": 2})
    stage = open_stages(engine, {name: profile.stages[name]})[name]
    await stage.warm()
    started = time.perf_counter()
    predictions = [prediction for i in range(0, len(items), 8) for prediction in await stage.predict(items[i : i + 8])]
    ms = 1000 * (time.perf_counter() - started) / len(items)
    await stage.aclose()
    return predictions, ms


def _parameters(folder: Path) -> int:
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            total += sum(int(np.prod(weights.get_slice(key).get_shape())) for key in weights.keys())
    return total
