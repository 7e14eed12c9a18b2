"""Policies by name or path, and the rollout in a server's `user_config`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_policy_mapping

PROFILE_POLICY = "profile"  # in a user_config: the policy that the profile names


def load_policy(name_or_path: str | Path) -> Policy:
    """Return the policy of that name or in that file. Raises ConfigError naming the file and the entry to mend."""
    try:
        return Policy.parse(load_policy_mapping(name_or_path))
    except ConfigError as error:
        raise ConfigError(f"policy {name_or_path}: {error}") from None


def load_rollout(config: Mapping[str, Any], default: str) -> Rollout:
    """Return the rollout of a `user_config`: `policy`, and optionally `split`, `shadow` and `audit`.

    Each policy may be given in full, by name or by path. `default` names the policy to use without `policy`. Raises
    ConfigError naming the entry to mend.
    """

    def loaded(entry: object, field: str) -> object:
        """Return the entry with the policy that it names in full."""
        if not isinstance(entry, Mapping):
            return entry
        fields = cast("Mapping[str, object]", entry)
        if not isinstance(source := fields.get("policy"), str):
            return fields
        try:
            return {**fields, "policy": load_policy(default if source == PROFILE_POLICY else source)}
        except ConfigError as error:
            raise ConfigError(f"{field}: {error}") from None

    whole = cast("dict[str, object]", loaded({"policy": PROFILE_POLICY, **config}, "policy"))
    for name in ("split", "shadow"):
        if name in config:
            whole = {**whole, name: loaded(config[name], f"{name}.policy")}
    return Rollout.parse(whole)
