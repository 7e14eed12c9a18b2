"""Loading of profiles and policies from YAML: those in the package by name, others by path.

An error names the file, the field, and what to do about it.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.validation import explain

_BUNDLED = resources.files("roadwork_serve.profiles")


def load_profile(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Return the profile of this name or path, with the overrides merged in.

    Overrides merge as in JSON Merge Patch (RFC 7396): mappings merge field by field, other values replace the old
    ones, and None removes a field, so `{"stages": {"video": None}}` removes a stage.

    Raises:
        ConfigError: The profile does not exist or is invalid.
    """
    origin, mapping = _read(name_or_path, "profile", "")
    if overrides:
        origin += " with overrides"
        mapping = _merged(mapping, overrides)
    try:
        return Profile.model_validate(mapping)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {explain(error, Profile, 'the whole file')}") from None


def load_policy_mapping(name_or_path: str | Path) -> dict[str, Any]:
    """Return the mapping of the policy of this name or path.

    Raises:
        ConfigError: The policy does not exist or is not a YAML mapping.
    """
    return _read(name_or_path, "policy", "policies")[1]


def bundled(folder: str = "") -> list[str]:
    """Return the names in the package: of profiles, or with folder="policies" of policies."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in _BUNDLED.joinpath(folder).iterdir()
        if entry.name.endswith(".yaml") and entry.name != "flops.yaml"
    )


def _read(name_or_path: str | Path, what: str, folder: str) -> tuple[str, dict[str, Any]]:
    """Return the origin, as error messages name it, and the content."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        source, origin = Path(text), text
        if not source.is_file():
            raise ConfigError(f"{what} {text}: there is no such file; give a path that exists, or one of the names "
                              + ", ".join(bundled(folder)))  # fmt: skip
    else:
        if text not in bundled(folder):
            raise ConfigError(f"{what} {text!r} does not ship with the project; use one of "
                              f"{', '.join(bundled(folder))}, or a path ending in .yaml")  # fmt: skip
        source, origin = _BUNDLED.joinpath(folder, f"{text}.yaml"), f"{what} {text}"
    try:
        mapping = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin} is not valid YAML; fix it: {' '.join(str(error).split())}") from None
    if not isinstance(mapping, dict):
        raise ConfigError(f"{origin} holds a {type(mapping).__name__}; write a mapping of fields to values")
    return origin, mapping


def _merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged
