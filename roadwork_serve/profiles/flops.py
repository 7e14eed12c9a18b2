"""Compute cost of a path through the cascade: of the engines of a profile, or at the size of the production models.

The numbers and their derivation are in `flops.yaml`. A miniature counts as the model it replaces, so that the savings
of a policy can be estimated without a GPU.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import yaml

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import own_stage, own_stages
from roadwork_serve.profiles.timm_mirrors import TIMM_MIRRORS
from roadwork_serve.schema import MediaKind, StageReport, Verdict


@dataclass(frozen=True, slots=True)
class StageFlops:
    """The FLOPs of one inference of a stage."""

    #: Production model of the stage and its settings.
    model: str
    #: FLOPs for a photo; None if the stage takes no photos.
    photo: float | None
    #: FLOPs for a clip; None if the stage takes no clips.
    clip: float | None
    #: Estimated milliseconds of one photo alone on an RTX 4090, or a CPU core; None if there is no estimate.
    photo_ms: float | None = None
    #: The same for a clip.
    clip_ms: float | None = None
    #: Source of the estimates.
    source: str = ""

    def of(self, kind: MediaKind) -> float | None:
        """Return the FLOPs for this kind of media; None if the stage does not take it."""
        return self.photo if kind == "photo" else self.clip


@cache
def stage_flops() -> Mapping[str, StageFlops]:
    """Return the FLOPs of every stage of this package by its name."""
    return {stage: _stage_flops(row) for stage, row in _table().items() if stage != "engines"}


def profile_flops(profile: Profile) -> Mapping[str, StageFlops]:
    """Return the FLOPs of every stage of a profile, by its engine and the size of its input.

    An engine that is not in `flops.yaml` counts as the production model of its stage, as does a miniature. A size that
    is not there counts in proportion to the pixels.
    """
    found: dict[str, StageFlops] = {}
    for stage in profile.stages:
        engine = profile.engine_of(stage)
        entry = None if engine.miniature else _entry(stage, engine.model, profile.media.thumb_side)
        found[stage] = entry or stage_flops().get(stage) or _own_flops(stage)
    return found


def _entry(stage: str, model: str, side: int) -> StageFlops | None:
    originals = {mirror: original for original, mirror in TIMM_MIRRORS.items()}
    name = originals.get(model, model)
    rows = [row for row in _table()["engines"].get(stage, ()) if name.startswith(row["model"])]
    if not rows:
        return None
    row = min(rows, key=lambda row: abs(row.get("side", side) - side))
    entry, scale = _stage_flops(row), (side / row.get("side", side)) ** 2
    scaled = {field: value * scale for field in ("photo", "clip", "photo_ms", "clip_ms")
              if (value := getattr(entry, field)) is not None}  # fmt: skip
    return replace(entry, **scaled)


def _known(stage: str) -> StageFlops | None:
    """Return the FLOPs of a stage of any package; None for one that is not installed."""
    return stage_flops().get(stage) or (_own_flops(stage) if stage in own_stages() else None)


def _own_flops(stage: str) -> StageFlops:
    """Return the FLOPs that a stage of another package states."""
    kind = own_stage(stage)
    return StageFlops(stage, _flop(kind.photo_gflop), _flop(kind.clip_gflop))


@cache
def _table() -> dict[str, Any]:
    text = resources.files("roadwork_serve.profiles").joinpath("flops.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _stage_flops(row: Mapping[str, Any]) -> StageFlops:
    return StageFlops(
        str(row["model"]), _flop(row.get("photo")), _flop(row.get("clip")), row.get("photo_ms"), row.get("clip_ms"),
        str(row.get("source", "")),
    )  # fmt: skip


def flops(stages_entered: Iterable[str], kind: MediaKind) -> float:
    """Return the FLOPs of running these stages on one item.

    Raises:
        ConfigError: A stage has no entry for this kind of media in `flops.yaml`.
    """
    return sum(_of_stage(stage, kind) for stage in stages_entered)


@dataclass(frozen=True, slots=True)
class StageCost:
    """The compute that a stage spent on one item."""

    #: FLOPs; 0 for a stage without an entry in `flops.yaml`.
    flops: float
    #: Seconds of a whole GPU.
    gpu_seconds: float

    @property
    def gflops(self) -> float:
        """The FLOPs in units of 10^9."""
        return self.flops / 1e9


def stage_cost(
    report: StageReport, kind: MediaKind, gpus: float = 0.0, prices: Mapping[str, StageFlops] | None = None
) -> StageCost:
    """Return the compute behind a report. An item's GPU time is its share of the batch, times `gpus`.

    Args:
        report: The report; one without a batch cost nothing.
        kind: The kind of media.
        gpus: GPUs that a replica of the stage holds, or the share of one.
        prices: The FLOPs by stage: of `profile_flops`, or by default those of the production models.
    """
    if not report.batch_size:
        return StageCost(0.0, 0.0)
    known = _known(report.stage) if prices is None else prices.get(report.stage)
    spent = None if known is None else known.of(kind)
    return StageCost(spent or 0.0, gpus * report.compute_ms / 1000 / report.batch_size)


def verdict_costs(
    verdict: Verdict, gpus: Mapping[str, float], prices: Mapping[str, StageFlops] | None = None
) -> tuple[StageCost, ...]:
    """Return the cost of each report of a verdict, in the same order. See `stage_cost`; its arguments are by stage."""
    return tuple(stage_cost(report, verdict.media, gpus.get(report.stage, 0.0), prices) for report in verdict.stages)


def _of_stage(stage: str, kind: MediaKind) -> float:
    known = _known(stage)
    found = None if known is None else known.of(kind)
    if found is None:
        raise ConfigError(f"stage {stage!r} has no FLOPs for a {kind}; add them to profiles/flops.yaml")
    return found


def _flop(gflop: float | None) -> float | None:
    return None if gflop is None else float(gflop) * 1e9
