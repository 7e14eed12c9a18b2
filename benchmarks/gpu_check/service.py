"""Measurements of the service: the stages of a profile, opened and asked as a replica does, without Ray and HTTP."""

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.gpu_check.checkpoints import random_weights, write_checkpoint
from benchmarks.gpu_check.clock import concurrent, memory_peak
from roadwork_serve import media
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.prediction import Item, Page, Stage
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.gpu_memory import gpu_memory_need
from roadwork_serve.profiles.load import load_policy_mapping
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.stages.load import open_stages
from roadwork_serve.testbed import scenes

DEADLINE_S = 600.0
LOAD = (1, 8, 24)
TINY_LOAD = (1, 2, 4)
BASES = 4  # rendered scenes, of which the others are variants
#: Different photos and clips: more than fit into the KV cache of an engine, since vLLM's prefix cache would otherwise
#: answer for the model. In a rehearsal one of each scene.
COUNTS = {"photo": 128, "clip": 48}
MINIATURE = "bundled:vlm"


@dataclass(slots=True)
class Service:
    """The stages of a profile, each behind its batcher."""

    profile: Profile
    stages: dict[str, Stage] = field(default_factory=dict)
    batchers: dict[str, Batcher] = field(default_factory=dict)
    #: Photos and clips by kind: see `make_items`.
    items: dict[str, list[Item]] = field(default_factory=dict)
    #: A row for each engine: time of its start, and GPU memory against the plan.
    starts: list[dict[str, Any]] = field(default_factory=list)
    #: Numbers of items in flight.
    load: tuple[int, ...] = LOAD


def with_random_weights(profile: Profile, folder: Path) -> Profile:
    """Return the profile with a folder without weights for each model, which the engines fill with random ones."""
    engines: dict[str, EngineSpec] = {}
    for name in profile.users():
        spec = profile.engines[name]
        if spec.backend not in ("transformers", "vllm"):  # its weights came with a package
            engines[name] = spec
            continue
        path = folder / name
        shutil.rmtree(path, ignore_errors=True)  # of another profile or version
        write_checkpoint(spec.model, path)
        changes: dict[str, Any] = {"model": str(path), "quantized_models": {}, "revision": None}
        if spec.backend == "vllm":
            arguments = spec.vllm.arguments | {"load_format": "dummy"}
            changes["vllm"] = spec.vllm.model_copy(update={"arguments": arguments})
        engines[name] = spec.model_copy(update=changes)
    return profile.model_copy(update={"engines": engines})


def on_transformers(profile: Profile) -> Profile:
    """Return the profile with the language models by transformers, for a machine without vLLM."""
    engines = {
        name: EngineSpec.model_validate(
            spec.model_dump(exclude={"backend", "vllm", "quantization", "quantized_models"}, exclude_defaults=True)
            | {"backend": "transformers"}
        )
        if spec.backend == "vllm"
        else spec
        for name, spec in profile.engines.items()
    }
    return profile.model_copy(update={"engines": engines})


@asynccontextmanager
async def opened(profile: Profile, published: Profile, tiny: bool) -> AsyncIterator[Service]:
    """Open the engines one after another, in the profile's order, and close them at the end.

    Args:
        profile: The models to open.
        published: The profile with the ids of the published models, from which the memory is planned.
        tiny: A rehearsal: the models have weights, and few items are made.
    """
    service = Service(profile, load=TINY_LOAD if tiny else LOAD)
    for kind, count in COUNTS.items():
        service.items[kind] = await make_items(profile, kind, BASES if tiny else count)
    async with AsyncExitStack() as closing:
        if not tiny:
            closing.enter_context(random_weights())
        for name, users in profile.users().items():
            began = time.perf_counter()
            with memory_peak() as memory:
                stages = await asyncio.to_thread(open_stages, profile.engines[name], users)
                for stage in stages.values():
                    closing.push_async_callback(stage.aclose)
                    await stage.warm()
            spec = published.engines[name]
            title = Path(spec.model).name if tiny else spec.model
            planned = gpu_memory_need(name, spec, users, 80.0).total if spec.device == "cuda" else None
            service.starts.append(
                {"engine": name, "model": title, "backend": profile.engines[name].backend,
                 "seconds": time.perf_counter() - began, "peak_gib": memory.gib, "planned_gib": planned}
            )  # fmt: skip
            service.stages.update(stages)
        for name, spec in profile.stages.items():
            service.batchers[name] = Batcher(
                service.stages[name], max_batch=spec.max_batch, slots=spec.slots, max_queue=1000,
                timeout_s=DEADLINE_S, name=name,
            )  # fmt: skip
            closing.push_async_callback(service.batchers[name].aclose)
        yield service


async def make_items(profile: Profile, kind: str, count: int) -> list[Item]:
    """Return rendered photos or clips, all different: a few scenes with a mark in a corner."""
    found: list[Item] = []
    for seed in range(BASES):
        data = scenes.photo(seed).jpeg() if kind == "photo" else scenes.clip(seed, scale=0.5).mp4()
        decoded = await asyncio.to_thread(media.read, data, profile.media)
        page = Page(lambda _, of=data: asyncio.to_thread(media.page, of, profile.media))
        base = await Item.of(decoded, "check", time.monotonic() + DEADLINE_S, page).with_images()
        for number in range(count // BASES):
            images = await asyncio.to_thread(lambda n=number, of=base: tuple(_marked(each, n) for each in of.images))
            found.append(replace(base, images=images))
    return found


def _marked(data: bytes, number: int) -> bytes:
    """Return a JPEG with a square in a corner, in a color of this number."""
    image = Image.open(BytesIO(data)).convert("RGB")
    side = max(16, image.width // 16)
    image.paste((number * 37 % 256, number * 91 % 256, number * 7 % 256), (0, 0, side, side))
    out = BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _fresh(items: list[Item], number: int) -> Item:
    deadline_s = time.monotonic() + DEADLINE_S
    return replace(items[number % len(items)], request_id=uuid.uuid4().hex, deadline_s=deadline_s)


async def latencies(service: Service, seconds: float) -> dict[str, Any]:
    """Return the latency of every stage with several numbers of items in flight."""
    rows: list[dict[str, Any]] = []
    for name, batcher in service.batchers.items():
        kind = "clip" if name == "video" else "photo"
        items = service.items[kind]
        for in_flight in service.load:
            row = await concurrent(lambda i, b=batcher, of=items: b.submit(_fresh(of, i)), in_flight, seconds)
            rows.append({"stage": name, **row})
    return {"stages": rows}


async def reasoning_under_load(service: Service) -> dict[str, Any]:
    """Return the time of one item with reasoning alone, and while the stage `vlm` is kept full of photos.

    Raises:
        ConfigError: The profile has no such stages.
    """
    if not {"vlm", "reasoner"} <= set(service.stages):
        raise ConfigError("the profile has no stages vlm and reasoner")
    items = service.items["photo"]
    reasoner, photos = service.batchers["reasoner"], service.profile.stages["vlm"].slots

    async def one() -> tuple[float, int]:
        began = time.perf_counter()
        answer = await reasoner.submit(_fresh(items, 3))
        return time.perf_counter() - began, answer.prediction.tokens

    alone_s, tokens = await one()
    done = False

    async def keep_asking(number: int) -> int:
        count = 0
        while not done:
            await service.batchers["vlm"].submit(_fresh(items, number + count))
            count += 1
        return count

    load = [asyncio.create_task(keep_asking(i)) for i in range(photos)]
    await asyncio.sleep(0)
    try:
        loaded_s, _ = await one()
    finally:
        done = True
        counts = await asyncio.gather(*load)
    timeout_s = service.profile.stages["reasoner"].timeout_s
    return {"tokens": tokens, "alone_s": alone_s, "loaded_s": loaded_s, "photos": photos, "answered": sum(counts),
            "timeout_s": timeout_s, "in_time": loaded_s < timeout_s}  # fmt: skip


async def backbone_batches(service: Service, seconds: float) -> dict[str, Any]:
    """Return the time of a forward pass of stage 1 by the number of thumbnails, compiled as in the service."""
    first = service.items["photo"][0]
    stage, rows = service.stages["backbone"], list[dict[str, Any]]()
    for batch in (1, 8, 32, 64):
        if batch > max(1, service.profile.stages["backbone"].max_batch):
            break
        items = [_fresh([first], 0).slim("thumbs") for _ in range(batch)]
        row = await concurrent(lambda _, of=items: stage.predict(of), 1, seconds)
        rows.append({"batch": batch, **row, "per_s": row["per_s"] * batch})
    return {"batches": rows}


async def cascade(service: Service, seconds: float) -> dict[str, Any]:
    """Return the throughput of whole items, photos, with the policy of the profile."""
    policy = Policy.parse(load_policy_mapping(service.profile.policy))
    router = Router(service.batchers, Rollout(policy=policy), service.profile.name)
    items = service.items["photo"]
    found = await concurrent(lambda i: router.classify_item(_fresh(items, i)), service.load[-1], seconds)
    return found | {"policy": policy.version}


async def agreement(profile: Profile) -> dict[str, Any]:
    """Compare P(YES) of the miniature by vLLM, with the runner and the kernels of this GPU, and by transformers.

    Raises:
        ConfigError: The profile has no engine of vLLM.
    """
    from roadwork_serve.cascade.log_odds import sigmoid

    spec = next((each for each in profile.engines.values() if each.backend == "vllm"), None)
    if spec is None:
        raise ConfigError("vLLM is not installed, or the profile has no engine of it")
    small: dict[str, Any] = {"model": MINIATURE, "quantization": None, "quantized_models": {}}
    vllm = spec.vllm.model_copy(update={"kv_cache_gib": 1.0, "gpu_memory_utilization": None, "arguments": {}})
    language = spec.language.model_copy(update={"max_pixels": None})
    ours = spec.model_copy(update=small | {"vllm": vllm, "language": language})
    theirs = EngineSpec(
        backend="transformers", model=MINIATURE, dtype=spec.dtype, device=spec.device, num_gpus=spec.num_gpus
    )
    users: Mapping[StageName, Any] = {"vlm": profile.stages["vlm"]}
    items = await make_items(profile, "photo", 16)
    answers: list[list[float]] = []
    for engine in (ours, theirs):
        stage = (await asyncio.to_thread(open_stages, engine, users))["vlm"]
        try:
            predictions = [(await stage.predict([each]))[0] for each in items]
        finally:
            await stage.aclose()
        answers.append([sigmoid(each.logit or 0.0) for each in predictions])
    largest = max(abs(a - b) for a, b in zip(*answers, strict=True))
    return {
        "photos": len(items), "largest": largest, "vllm": answers[0], "transformers": answers[1],
        "vllm_version": version("vllm"), "runner": os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "default"),
    }  # fmt: skip
