"""What a stage costs, by one's own account."""

from pathlib import Path

import yaml

from roadwork_serve.calibration.trajectories import Price
from roadwork_serve.cascade.parsing import entries_of, number
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.profiles.profile import STAGES


def read_costs(path: Path) -> Price:
    """A price by stage from a YAML file such as `{backbone: 0.1, vlm: 4, video: {clip: 20}}`, in whatever unit.

    A look may cost the same for a photo and a clip, or be given for each. Raises ConfigError naming the entry to mend,
    and, when it is called, for a look that has no price.
    """
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the costs in {path} cannot be read ({' '.join(str(error).split())}); mend it") from None
    prices: dict[tuple[str, str], float] = {}
    for stage, value in entries_of(told, str(path), set(), set(STAGES)).items():
        looks = value if isinstance(value, dict) else {"photo": value, "clip": value}
        for kind, price in entries_of(looks, f"{path}: {stage}", set(), {"photo", "clip"}).items():
            prices[stage, kind] = number(price, f"{path}: {stage}.{kind}", 0)

    def priced(row: EvaluationRow, stage: str) -> float:
        if (stage, row.about.kind) not in prices:
            raise ConfigError(f"{path}: {stage} has no price for a {row.about.kind}; add one")
        return prices[stage, row.about.kind]

    return priced
