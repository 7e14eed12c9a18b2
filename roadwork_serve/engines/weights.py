"""Locations of weights: bundled:NAME is in the package, everything else is a hub id or a path."""

from pathlib import Path

from roadwork_serve.errors import ModelError

WEIGHTS = Path(__file__).parents[1] / "weights"
PREFIX = "bundled:"


def weights_folder(model: str) -> str:
    """Return the folder of `bundled:NAME`; return hub ids and paths unchanged.

    Raises:
        ModelError: There are no weights of that name.
    """
    if not model.startswith(PREFIX):
        return model
    name = model.removeprefix(PREFIX)
    found = WEIGHTS / name
    if not (found / "config.json").exists():
        there = sorted(p.parent.name for p in WEIGHTS.glob("*/config.json"))
        raise ModelError(f"the project bundles no weights {name!r}: use one of {', '.join(there) or 'none'}")
    return str(found)
