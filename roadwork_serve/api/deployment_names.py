"""Names of the deployments."""

from collections.abc import Iterable

from roadwork_serve.profiles.stage_kinds import StageName

INGRESS = "Ingress"
DEPLOYMENTS: dict[StageName, str] = {
    "backbone": "Backbone",
    "closeup": "Closeup",
    "signs": "SignReader",
    "vlm": "FastVLM",
    "reasoner": "Reasoner",
    "video": "VideoReasoner",
}


def deployment_of(stages: Iterable[StageName]) -> str:
    """Return the name of the deployment that these stages use. A closer look is part of the backbone's."""
    names = list(stages)
    return "-".join(_deployment(name) for name in names if name != "closeup" or "backbone" not in names)


def _deployment(stage: StageName) -> str:
    """Return the name of one stage; those of other packages end in Stage, so that they are never that of another."""
    own = "".join(part.capitalize() for part in stage.replace("-", "_").split("_")) + "Stage"
    return DEPLOYMENTS.get(stage, own)
