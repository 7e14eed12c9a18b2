"""Policies by name or path, and the rules that a server is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_policy_mapping

PROFILE_POLICY = "profile"  # in a user_config: the policy that the profile names


def load_policy(name_or_path: str | Path) -> Policy:
    """The policy of that name or in that file. Raises ConfigError naming the file and the line to mend."""
    try:
        return Policy.from_mapping(load_policy_mapping(name_or_path))
    except ConfigError as error:
        raise ConfigError(f"policy {name_or_path}: {error}") from None


def load_rollout(config: Mapping[str, Any], default: str) -> Rollout:
    """The rules of a `user_config`: `policy`, and if wanted `split` and `shadow`.

    Each policy may be given whole, by name or by path; without one the default is taken. Raises ConfigError.
    """

    def read(source: object) -> Policy:
        if not isinstance(source, str):
            return Policy.from_mapping(source)
        return load_policy(default if source == PROFILE_POLICY else source)

    return Rollout.from_mapping({"policy": PROFILE_POLICY, **config}, read)
