"""The free settings of a stage, checked against those its code knows."""

from collections.abc import Mapping
from typing import Any

from roadwork_serve.errors import ConfigError


def validated(stage: str, options: Mapping[str, Any], **known: type) -> Mapping[str, Any]:
    """The options, when all are known and of their type. Raises ConfigError."""
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"stage {stage} has no option {name!r}; it knows {', '.join(sorted(known)) or 'none'}")
        if not isinstance(value, known[name]) or (isinstance(value, bool) and known[name] is not bool):
            raise ConfigError(f"stages.{stage}.options.{name}: {value!r} should be of type {known[name].__name__}")
        if known[name] is int and value < 1:
            raise ConfigError(f"stages.{stage}.options.{name}: {value} should be 1 or more")
    return options
