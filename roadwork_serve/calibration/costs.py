"""Inference costs of the stages, read from a file of the user's."""

from pathlib import Path

import yaml
from pydantic import model_validator

from roadwork_serve.calibration.trajectories import CostFunction
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.validation import ConfigModel, NonNegative


class StageCost(ConfigModel):
    """The cost of one inference of a stage, by media type. A single number holds for both."""

    photo: NonNegative | None = None
    clip: NonNegative | None = None

    @model_validator(mode="before")
    @classmethod
    def _for_both(cls, value: object) -> object:
        return value if isinstance(value, dict) else {"photo": value, "clip": value}


class StageCosts(ConfigModel):
    """The cost of each stage, in any unit."""

    backbone: StageCost | None = None
    closeup: StageCost | None = None
    signs: StageCost | None = None
    vlm: StageCost | None = None
    reasoner: StageCost | None = None
    video: StageCost | None = None


def read_costs(path: Path) -> CostFunction:
    """Return the costs in a YAML file such as `{backbone: 0.1, vlm: 4, video: {clip: 20}}`, in any unit.

    Raises ConfigError naming the entry to mend, and, when it is called, for an inference without a cost.
    """
    try:
        costs = StageCosts.parse(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the costs in {path} cannot be read ({' '.join(str(error).split())}); mend it") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    prices = costs.model_dump(exclude_none=True)

    def price(row: EvaluationRow, stage: str) -> float:
        kind = row.metadata.kind
        if kind not in prices.get(stage, {}):
            raise ConfigError(f"{path}: {stage} has no price for a {kind}; add one")
        return prices[stage][kind]

    return price
