"""Validation of the options of a stage."""

from collections.abc import Mapping
from typing import Any

from roadwork_serve.errors import ConfigError


def validated(stage: str, options: Mapping[str, Any], **known: type) -> Mapping[str, Any]:
    """Return the options.

    Raises:
        ConfigError: An option is unknown, of the wrong type, or below 1.
    """
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"stage {stage} has no option {name!r}; it has {', '.join(sorted(known)) or 'none'}")
        if not isinstance(value, known[name]) or (isinstance(value, bool) and known[name] is not bool):
            raise ConfigError(f"stages.{stage}.options.{name}: {value!r} should be of type {known[name].__name__}")
        if known[name] is int and value < 1:
            raise ConfigError(f"stages.{stage}.options.{name}: {value} should be 1 or more")
    return options
