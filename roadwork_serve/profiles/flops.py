"""Compute cost of a path through the cascade, at the size of the production models.

The numbers and their derivation are in `flops.yaml`. A miniature counts as the model it replaces, so that the savings
of a policy can be estimated without a GPU.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from roadwork_serve.errors import ConfigError
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

    def of(self, kind: MediaKind) -> float | None:
        """Return the FLOPs for this kind of media; None if the stage does not take it."""
        return self.photo if kind == "photo" else self.clip


@cache
def stage_flops() -> Mapping[str, StageFlops]:
    """Return the FLOPs of every stage by its name."""
    text = resources.files("roadwork_serve.profiles").joinpath("flops.yaml").read_text(encoding="utf-8")
    return {
        stage: StageFlops(str(row["model"]), _flop(row.get("photo")), _flop(row.get("clip")))
        for stage, row in yaml.safe_load(text).items()
    }


def flops(stages_entered: Iterable[str], kind: MediaKind) -> float:
    """Return the FLOPs of running these stages on one item.

    Raises:
        ConfigError: A stage has no entry for this kind of media in `flops.yaml`.
    """
    return sum(_of_stage(stage, kind) for stage in stages_entered)


@dataclass(frozen=True, slots=True)
class StageCost:
    """The compute that a stage spent on one item."""

    #: FLOPs at the size of the production model; 0 for a stage without an entry in `flops.yaml`.
    flops: float
    #: Seconds of a whole GPU.
    gpu_seconds: float

    @property
    def gflops(self) -> float:
        """The FLOPs in units of 10^9."""
        return self.flops / 1e9


def stage_cost(report: StageReport, kind: MediaKind, gpus: float = 0.0) -> StageCost:
    """Return the compute behind a report. An item's GPU time is its share of the batch, times `gpus`.

    Args:
        report: The report; one without a batch cost nothing.
        kind: The kind of media.
        gpus: GPUs that a replica of the stage holds, or the share of one.
    """
    if not report.batch_size:
        return StageCost(0.0, 0.0)
    known = stage_flops().get(report.stage)
    spent = None if known is None else known.of(kind)
    return StageCost(spent or 0.0, gpus * report.compute_ms / 1000 / report.batch_size)


def verdict_costs(verdict: Verdict, gpus: Mapping[str, float]) -> tuple[StageCost, ...]:
    """Return the cost of each report of a verdict, in the same order. `gpus` is by stage; see `stage_cost`."""
    return tuple(stage_cost(report, verdict.media, gpus.get(report.stage, 0.0)) for report in verdict.stages)


def _of_stage(stage: str, kind: MediaKind) -> float:
    known = stage_flops().get(stage)
    found = None if known is None else known.of(kind)
    if found is None:
        raise ConfigError(f"stage {stage!r} has no FLOPs for a {kind}; add them to profiles/flops.yaml")
    return found


def _flop(gflop: float | None) -> float | None:
    return None if gflop is None else float(gflop) * 1e9
