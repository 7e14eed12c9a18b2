"""Stages that cannot run yet do not keep a server from its start: a backbone without a head, a model without access."""

import logging
from collections.abc import Callable
from pathlib import Path

from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import StageName, role_of

_LOG = logging.getLogger("ray.serve.roadwork.profile")


def with_optional_stages(profile: Profile, access_problem: Callable[[EngineSpec], str | None]) -> Profile:
    """Return the profile in which stages that cannot run yet are not required, with a note of the reason.

    One stage at least stays required.

    Args:
        profile: The profile.
        access_problem: Returns why this machine may not read a model; None if it may.
    """
    notes: dict[StageName, str] = {
        stage: note for stage in profile.stages if (note := _note(profile, stage, access_problem))
    }
    stages = dict(profile.stages)
    if not any(spec.required for stage, spec in stages.items() if stage not in notes):
        return profile
    for stage, note in notes.items():
        _LOG.warning("Stage %s is not required: %s.", stage, note)
        stages[stage] = stages[stage].model_copy(update={"required": False, "note": note})
    return profile.model_copy(update={"stages": stages})


def _note(profile: Profile, stage: StageName, access_problem: Callable[[EngineSpec], str | None]) -> str | None:
    engine = profile.engine_of(stage)
    if (problem := access_problem(engine)) is not None:
        return problem
    if role_of(stage) == "features" and not _may_have_head(engine):
        return (
            f"{engine.model} has no head yet, so it abstains: train one with `roadwork train-head` and name its folder "
            f"in engines.{profile.stages[stage].engine}.features.head"
        )
    return None


def _may_have_head(engine: EngineSpec) -> bool:
    """Return True for an engine with a head, or whose weights may come with one; False for a backbone of the hub."""
    local = engine.model.startswith("bundled:") or Path(engine.model).exists() or engine.backend != "transformers"
    return engine.features.head is not None or local
