"""Policies by name or path."""

from pathlib import Path

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_policy_mapping


def load_policy(name_or_path: str | Path) -> Policy:
    """The policy of that name or in that file. Raises ConfigError naming the file and the line to mend."""
    try:
        return Policy.from_mapping(load_policy_mapping(name_or_path))
    except ConfigError as error:
        raise ConfigError(f"policy {name_or_path}: {error}") from None
