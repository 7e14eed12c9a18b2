"""What the deployments are called."""

from collections.abc import Iterable

from roadwork_serve.profiles.profile import StageName

INGRESS = "Ingress"
DEPLOYMENTS: dict[StageName, str] = {
    "backbone": "Backbone",
    "signs": "SignReader",
    "vlm": "FastVLM",
    "reasoner": "Reasoner",
    "video": "VideoReasoner",
}


def deployment_of(stages: Iterable[StageName]) -> str:
    """The name of the deployment that these stages ask."""
    return "-".join(DEPLOYMENTS[name] for name in stages)
