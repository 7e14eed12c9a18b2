"""The packages that each backend needs, which not every installation has."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from roadwork_serve.profiles.engine_spec import Backend
from roadwork_serve.profiles.profile import Profile, StageName

_LOG = logging.getLogger("ray.serve.roadwork.profile")


@dataclass(frozen=True, slots=True)
class _Needs:
    packages: tuple[str, ...]
    remedy: str


_MODELS = "run `make setup` in a checkout, or install roadwork-serve[models]"
_NEEDS: Mapping[Backend, _Needs] = {
    "transformers": _Needs(("torch", "transformers"), _MODELS),
    "tensorrt": _Needs(("torch", "tensorrt"), "install roadwork-serve[models,tensorrt]"),
}  # the others are in every installation, except vllm, which `missing_requirements` reports


def missing_packages(backend: Backend) -> str | None:
    """Return which packages of a backend are not installed, and how to install them; None if it has all."""
    needs = _NEEDS.get(backend, _Needs((), ""))
    if not (absent := [name for name in needs.packages if find_spec(name) is None]):
        return None
    is_missing = "is not installed" if len(absent) == 1 else "are not installed"
    return f"backend {backend} needs {' and '.join(absent)}, which {is_missing}: {needs.remedy}"


def with_installed_stages(profile: Profile) -> Profile:
    """Return the profile without the stages whose backend lacks packages, which are logged; as it is if all do."""
    left_out = stages_without_packages(profile)
    if len(left_out) == len(profile.stages):
        return profile
    for stage, missing in left_out.items():
        _LOG.warning("Stage %s is left out: %s.", stage, missing)
    stages = {stage: spec for stage, spec in profile.stages.items() if stage not in left_out}
    return profile.model_copy(update={"stages": stages})


def stages_without_packages(profile: Profile) -> dict[StageName, str]:
    """Return the stages whose backend lacks packages, each with the message of `missing_packages`."""
    found: dict[StageName, str | None] = {
        stage: missing_packages(profile.engine_of(stage).backend) for stage in profile.stages
    }
    return {stage: missing for stage, missing in found.items() if missing is not None}
