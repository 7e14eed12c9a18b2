"""Where a model's weights lie: miniatures ship with the project, everything else has a hub id or a path."""

from pathlib import Path

from roadwork_serve.errors import ModelError

WEIGHTS = Path(__file__).parents[1] / "weights"
PREFIX = "mini:"


def weights_folder(model: str) -> str:
    """`mini:NAME` -> the folder that ships with the project; hub ids and paths as they are. Raises ModelError."""
    if not model.startswith(PREFIX):
        return model
    name = model.removeprefix(PREFIX)
    found = WEIGHTS / name
    if not (found / "config.json").exists():
        there = sorted(p.parent.name for p in WEIGHTS.glob("*/config.json"))
        raise ModelError(
            f"There is no miniature {name!r} in {WEIGHTS} (there: {', '.join(there) or 'none'}): train it with "
            f"`roadwork minis train {name}`."
        )
    return str(found)
