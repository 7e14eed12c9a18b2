"""Profiles and policies from YAML: the ones that ship with the project by name, any other by path.

An error names the file, the field, and what to do about it.
"""

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import Profile

_BUNDLED = resources.files("roadwork_serve.profiles")


def load_profile(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Profile:
    """The profile of that name or in that file, with the overrides merged in.

    Overrides merge as in JSON Merge Patch (RFC 7396): mappings field by field, anything else
    replaces what was there, and None takes it away, so `{"stages": {"video": None}}` drops a stage.

    Raises ConfigError when there is no such profile or it does not make sense.
    """
    origin, mapping = _read(name_or_path, "profile", "")
    if overrides:
        origin += " with overrides"
        mapping = _merged(mapping, overrides)
    try:
        return Profile.model_validate(mapping)
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(_told(each) for each in error.errors())) from None


def load_policy_mapping(name_or_path: str | Path) -> dict[str, Any]:
    """The mapping a policy is made from: `Policy.from_mapping(load_policy_mapping(profile.policy))`.

    Raises ConfigError when there is no such policy or it is no YAML mapping.
    """
    return _read(name_or_path, "policy", "policies")[1]


def bundled(folder: str = "") -> list[str]:
    """The names that ship with the project: profiles, or with "policies" the policies."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in _BUNDLED.joinpath(folder).iterdir()
        if entry.name.endswith(".yaml") and entry.name != "prices.yaml"
    )


def _read(name_or_path: str | Path, what: str, folder: str) -> tuple[str, dict[str, Any]]:
    """Where it was read from, as messages call it, and what it holds."""
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
        raise ConfigError(f"{origin} is not YAML; mend it: {' '.join(str(error).split())}") from None
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


def _told(error: ErrorDetails) -> str:
    """One pydantic error as field path, what was wrong, and what to do."""
    loc = [str(part) for part in error["loc"] if part != "[key]"]
    path = ".".join(loc) or "the whole file"
    match error["type"]:
        case "missing":
            return f"{path} is missing; add it"
        case "extra_forbidden":
            near = difflib.get_close_matches(loc[-1], _fields_at(loc[:-1]), n=1)
            return f"{path} is no known field; " + (f"did you mean {near[0]}?" if near else "take it out")
        case "value_error" if isinstance(error["input"], Mapping):  # a check of a whole, which names the line itself
            return ".".join([*loc, error["msg"].removeprefix("Value error, ")])
        case _:
            wanted = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            return f"{path} is {error['input']!r}; it should be {wanted}"


def _fields_at(loc: list[str]) -> list[str]:
    """The fields of the model that sits at a path of the profile; a key of a mapping leads to no other model."""
    model: type[BaseModel] = Profile
    for part in loc:
        if part in model.model_fields:
            annotation = model.model_fields[part].annotation
            inner = getattr(annotation, "__args__", (annotation,))[-1]
            if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
                return []
            model = inner
    return list(model.model_fields)
