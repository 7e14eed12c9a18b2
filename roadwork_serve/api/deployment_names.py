"""Names of the deployments."""

from collections.abc import Iterable

from roadwork_serve.profiles.profile import StageName

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
    return "-".join(DEPLOYMENTS[name] for name in names if name != "closeup" or "backbone" not in names)
