"""Locations of weights: mini:NAME is in the package, everything else is a hub id or a path."""

from pathlib import Path

from roadwork_serve.errors import ModelError

WEIGHTS = Path(__file__).parents[1] / "weights"
PREFIX = "mini:"


def weights_folder(model: str) -> str:
    """Return the folder of `mini:NAME`; return hub ids and paths unchanged.

    Raises:
        ModelError: There is no miniature of that name.
    """
    if not model.startswith(PREFIX):
        return model
    name = model.removeprefix(PREFIX)
    found = WEIGHTS / name
    if not (found / "config.json").exists():
        there = sorted(p.parent.name for p in WEIGHTS.glob("*/config.json"))
        raise ModelError(
            f"There is no miniature {name!r} in {WEIGHTS} (available: {', '.join(there) or 'none'}): train it with "
            f"`roadwork minis train {name}`."
        )
    return str(found)
