"""What a way through the cascade costs in compute, at the size of the production models.

The numbers and their arithmetic are in `stage_flops.yaml`. A miniature is priced as the model it
stands in for, so that what a policy saves can be told without a GPU.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from roadwork_serve.errors import ConfigError
from roadwork_serve.schema import MediaKind


@dataclass(frozen=True, slots=True)
class StageFlops:
    """One stage's production model and the FLOPs of one look at a photo or a clip; None where it never looks."""

    model: str
    photo: float | None
    clip: float | None


@cache
def stage_flops() -> Mapping[str, StageFlops]:
    """The price of every stage, by its name."""
    text = resources.files("roadwork_serve.profiles").joinpath("prices.yaml").read_text(encoding="utf-8")
    return {stage: _price(row) for stage, row in yaml.safe_load(text).items()}


def flops(stages_entered: Iterable[str], kind: MediaKind) -> float:
    """FLOPs of showing one item to these stages. Raises ConfigError for a look that has no price."""
    return sum(_look(stage, kind) for stage in stages_entered)


def _look(stage: str, kind: MediaKind) -> float:
    price = stage_flops().get(stage)
    look = None if price is None else (price.photo if kind == "photo" else price.clip)
    if look is None:
        raise ConfigError(f"stage {stage!r} has no price for a {kind}; add one to profiles/prices.yaml")
    return look


def _price(row: dict[str, float | str]) -> StageFlops:
    def flop(kind: MediaKind) -> float | None:
        return float(row[kind]) * 1e9 if kind in row else None

    return StageFlops(str(row["model"]), flop("photo"), flop("clip"))
