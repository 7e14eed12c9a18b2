"""Measurements on a machine with torch and transformers alone: the engines of transformers, one after another."""

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.checkpoints import random_weights, write_checkpoint
from benchmarks.gpu_check.clock import memory_peak, percentiles
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.florence import Florence2
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.transformers import VisionLanguageEngine
from roadwork_serve.engines.vlm import Prompt
from roadwork_serve.testbed import scenes
from roadwork_serve.testbed.minis.prompts import QUESTION, THINKING_QUESTION

BACKBONE = "facebook/dinov3-vitl16-pretrain-lvd1689m"
FLORENCE = "florence-community/Florence-2-large"
VLM = "Qwen/Qwen3-VL-8B-Instruct"
SIDE, MAX_PIXELS = 256, 512 * 512
REASONING_TOKENS = 64


def measure(folder: Path, options: LoadOptions, models: dict[str, Path], seconds: float) -> dict[str, dict[str, Any]]:
    """Return the results by part.

    Args:
        folder: For the checkpoints without weights.
        options: Device and type of the models.
        models: Folders of small checkpoints by role, for a rehearsal; by default the published sizes, random.
        seconds: Time for each measurement.
    """
    starts: list[dict[str, Any]] = []
    pictures = [scenes.photo(seed).image for seed in range(8)]

    def start(name: str, model: str, make: Callable[[str], Any]) -> Any:
        path = models.get(name)
        if path is None and not (path := folder / name).is_dir():
            write_checkpoint(model, path)
        began = time.perf_counter()
        with memory_peak() as memory:
            made = make(str(path))
        title = model if name not in models else f"small {name}"
        row = {"engine": name, "model": title, "backend": "transformers", "seconds": time.perf_counter() - began}
        starts.append(row | {"peak_gib": memory.gib, "planned_gib": None})
        return made

    def engines() -> dict[str, dict[str, Any]]:
        stages: list[dict[str, Any]] = []
        backbone = start("backbone", BACKBONE, lambda path: FeatureEngine(path, options, side=SIDE))
        backbone.warm()
        batches = [
            {"batch": batch, **_timed(lambda b=batch: backbone.extract(_thumbs(b)), batch, seconds)}
            for batch in (1, 8, 16)
        ]
        reader = start("florence", FLORENCE, lambda path: Florence2(path, options, max_tokens=32))
        stages += [
            {"stage": "signs", "in_flight": n, **_timed(lambda k=n: reader.read(pictures[:k]), n, seconds)}
            for n in (1, 2)
        ]
        vlm = start("vlm", VLM, lambda path: VisionLanguageEngine(path, options, max_pixels=MAX_PIXELS))
        for n in (1, 8):
            prompts = [Prompt(QUESTION, (picture,)) for picture in pictures[:n]]
            row = _timed(lambda of=prompts: asyncio.run(vlm.ask(of)), n, seconds)
            stages.append({"stage": "vlm", "in_flight": n, **row})
        prompt = Prompt(THINKING_QUESTION, (pictures[0],))
        began = time.perf_counter()
        (answer,) = asyncio.run(vlm.ask([prompt], REASONING_TOKENS))
        alone_s = time.perf_counter() - began
        stages.append(
            {"stage": f"reasoning, {answer.tokens} tokens", "in_flight": 1, "per_s": 1 / alone_s}
            | percentiles([alone_s])
        )
        return {"start": {"engines": starts}, "latency": {"stages": stages}, "backbone": {"batches": batches}}

    if models:
        return engines()
    with random_weights():
        return engines()


def small_checkpoints(folder: Path) -> dict[str, Path]:
    """Write untrained miniatures for a rehearsal. Returns their folders by role."""
    from roadwork_serve.testbed.minis import untrained

    paths = {name: folder / f"small-{name}" for name in ("backbone", "florence", "vlm")}
    untrained.write_backbone(paths["backbone"])
    untrained.write_reader(paths["florence"])
    untrained.write_vlm(paths["vlm"])
    return paths


def _thumbs(count: int) -> Any:
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8).numpy()


def _timed(call: Callable[[], object], items: int, seconds: float) -> dict[str, Any]:
    """Call for a time, after a warm-up; the results are on the CPU when a call returns."""
    call()
    times: list[float] = []
    began = time.perf_counter()
    while not times or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return percentiles(times) | {"calls": len(times), "per_s": items / statistics.median(times)}
