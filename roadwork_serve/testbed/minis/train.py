"""Trains the miniatures: renders the scenes, trains, writes the weights."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import DINOv3ViTModel

from roadwork_serve.engines.export_graphs import export_graphs
from roadwork_serve.engines.training_data import training_data
from roadwork_serve.errors import ConfigError
from roadwork_serve.testbed.minis import data
from roadwork_serve.testbed.minis.tokenizer import MOLMO_SPECIAL, QWEN_SPECIAL, train_tokenizer
from roadwork_serve.testbed.minis.training_loop import TrainingTask, train

NAMES = ("backbone", "tower", "vlm", "video")  # the tower is only the starting point of the VLM's vision tower
WEIGHTS = Path(__file__).parents[2] / "weights"
WORK = Path("build/minis")
WITH_PHOTOS = ("backbone", "vlm")
STILLS, CLIPS, CHECKS, CHECK_CLIPS = 34_000, 6_000, 1000, 250
RATES = {"backbone": 1e-3, "tower": 1e-3, "vlm": 7e-4, "video": 7e-4}


def main(
    names: Sequence[str] = NAMES,
    minutes: float = 30.0,
    out: Path = WEIGHTS,
    resume: bool = True,
    warm: bool = False,
    work: Path = WORK,
    stills: int = STILLS,
    clips: int = CLIPS,
    photos: Path | None = None,
    threads: int = 2,
) -> None:
    """Train the named miniatures, in the order in which one starts from another, for `minutes` each.

    warm: start from the weights in out instead of random ones, unless there is a stopped run to resume. Rendering takes
    extra time and happens once: its shards are stored in work, and so is the state of a stopped run.
    """
    # Set before torch starts its threads, which inherit it: averages of gradients decay to denormal floats, and an
    # optimizer step then takes a hundred times as long.
    torch.set_flush_denormal(True)
    if unknown := set(names) - set(NAMES):
        raise ConfigError(f"There is no miniature {', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}.")
    for name in NAMES:
        if name in names:
            task = training_task(name, out, work, stills, clips, photos)
            rate, target = RATES[name], work / name if name == "tower" else out / name
            declared = data.declared(_real_photos(photos) if name in WITH_PHOTOS else ())
            if warm and (target / "config.json").exists():
                task.load_weights(target)
                declared = declared.joined(training_data([str(target)]))
            summary = train(task, minutes, target, work / "state", resume=resume, lr=rate, threads=threads)
            scenes = clips if name == "video" else stills
            facts = asdict(summary) | {"scenes": scenes, "renderer": data.renderer_version(), "peak_rate": rate}
            facts |= declared.facts()
            if name == "vlm" and (work / "tower/training.json").exists():
                facts["tower"] = json.loads((work / "tower/training.json").read_text())
            (target / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
            if name != "tower":
                export_graphs(target)


def training_task(name: str, out: Path, work: Path, stills: int, clips: int, photos: Path | None) -> TrainingTask:
    """Return the training task of the named miniature, with its data rendered."""
    kind, count, checks = ("clips", clips, CHECK_CLIPS) if name == "video" else ("photos", stills, CHECKS)
    seeds, check_seeds = data.TRAIN_SEEDS[:count], data.CHECK_SEEDS[: min(checks, max(data.SHARD, count // 10))]
    scenes, check = data.fill(work, kind, seeds), data.fill(work, kind, check_seeds)
    teacher, compiled = None, shutil.which("g++") is not None
    start = work / "tower" if name == "vlm" and (work / "tower/config.json").exists() else out / "backbone"
    if name != "backbone" and (start / "config.json").exists():
        teacher = DINOv3ViTModel.from_pretrained(start).float()
        print(f"{name}: its vision tower starts from {start}", flush=True)
    if name == "video":
        from roadwork_serve.testbed.minis.train_video import VideoTask

        return VideoTask(scenes, check, train_tokenizer(MOLMO_SPECIAL, scenes.truths[:2000]), teacher, compiled)
    if name == "tower":
        from roadwork_serve.testbed.minis.train_tower import TowerTask

        return TowerTask(scenes, check, teacher, compiled)
    real = _real_photos(photos)
    if not real:
        print("No real photographs (ROADWORK_PHOTOS names no folder): rendered scenes alone are used.", flush=True)
    if name == "backbone":
        from roadwork_serve.testbed.minis.train_backbone import BackboneTask

        return BackboneTask(scenes, check, real, compiled)
    from roadwork_serve.testbed.minis.train_vlm import VlmTask

    return VlmTask(scenes, check, real, train_tokenizer(QWEN_SPECIAL, scenes.truths[:2000]), teacher, compiled)


def _real_photos(named: Path | None) -> list[data.RealPhoto]:
    folder = data.photos_folder(named)
    return list(data.real_photos(folder)) if folder else []
