"""The kinds of stages: those of this package, and those that other packages add by an entry point.

An entry point of the group `roadwork_serve.stages` is a `StageKind`; its name is the name of the stage in profiles and
policies.
"""

import functools
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from roadwork_serve.errors import ConfigError

GROUP = "roadwork_serve.stages"
STAGES = ("backbone", "closeup", "signs", "vlm", "reasoner", "video")
Role = Literal["features", "ocr", "language", "own"]
#: The kind of engine that each stage of this package needs.
ROLES: dict[str, Role] = {
    "backbone": "features",
    "closeup": "features",
    "signs": "ocr",
    "vlm": "language",
    "reasoner": "language",
    "video": "language",
}
#: The backends that can run each kind of engine.
BACKENDS: dict[Role, tuple[str, ...]] = {
    "features": ("transformers", "onnx", "tensorrt"),
    "ocr": ("transformers", "rapidocr"),
    "language": ("transformers", "onnx", "vllm", "openai"),
    "own": ("own",),
}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")  # the length of the journal's column


@dataclass(frozen=True, slots=True)
class StageKind:
    """A stage that another package adds."""

    #: Called in the replica with (name, StageSpec, EngineSpec, engine), where `engine` is the opened engine of the
    #: role, or None for the role own. Returns a `BlockingStage` of `cascade.prediction` for the roles features, ocr
    #: and own, and a `Stage` for the role language.
    open: Callable[..., Any]
    #: The engine that it needs: `own` for a model that the stage opens itself, from an engine with `backend: own`.
    role: Role = "own"
    #: Compute for a photo in GFLOP, which `roadwork tune` weighs; None if the stage takes no photos.
    photo_gflop: float | None = 0.0
    #: The same for a clip.
    clip_gflop: float | None = 0.0


def own_stages() -> tuple[str, ...]:
    """Return the names of the stages that installed packages add, sorted."""
    return _own_stages_on(tuple(sys.path))


@functools.lru_cache(maxsize=8)
def _own_stages_on(_path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the same, read once for a search path: every row of an export asks, and reading takes milliseconds."""
    return tuple(sorted({each.name for each in entry_points(group=GROUP)} - set(STAGES)))


def stage_names() -> tuple[str, ...]:
    """Return the names of all stages: those of this package in their usual order, then those of others."""
    return (*STAGES, *own_stages())


def in_usual_order(names: Iterable[str]) -> list[str]:
    """Return the names of stages in their usual order: those of this package first, the rest as they come."""
    return sorted(names, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES))


def own_stage(name: str) -> StageKind:
    """Return the stage of another package. Raises ConfigError if there is none, or it cannot be loaded."""
    found = tuple(entry_points(group=GROUP, name=name))
    if not found or name in STAGES:
        raise ConfigError(f"stage {name!r}: no installed package has an entry point {name} in the group {GROUP}")
    try:
        kind = found[0].load()
    except Exception as error:
        raise ConfigError(
            f"stage {name}: its entry point {found[0].value} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(kind, StageKind):
        raise ConfigError(f"stage {name}: its entry point {found[0].value} is no {StageKind.__name__}; make it one")
    return kind


def role_of(name: str) -> Role:
    """Return the kind of engine that a stage needs. Raises ConfigError if the stage is not known."""
    return ROLES[name] if name in ROLES else own_stage(name).role


def _known(name: Any) -> Any:
    """Return the name of a stage. Anything else is an error that lists the names."""
    if name in STAGES:
        return name
    known = stage_names()
    if name not in known or not isinstance(name, str) or not _NAME.fullmatch(name):
        listed = ", ".join(f"'{each}'" for each in known[:-1])
        raise PydanticCustomError("stage_name", "Input should be {known}", {"known": f"{listed} or '{known[-1]}'"})
    return name


#: The name of a stage of this package, or of one that an installed package adds.
StageName = Annotated[str, BeforeValidator(_known)]
