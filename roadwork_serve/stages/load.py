"""Opens a stage by name, importing only what that stage needs."""

from roadwork_serve.cascade.opinion import Stage
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import STAGES, StageSpec


def open_stage(name: str, spec: StageSpec) -> Stage:
    """The stage of that name with its model loaded.

    Raises ConfigError when there is no such stage, ModelError when its model cannot be loaded.
    """
    match name:
        case "backbone":
            from roadwork_serve.stages.backbone import Backbone

            return Backbone(spec)
        case "signs":
            from roadwork_serve.stages.signs import Signs

            return Signs(spec)
        case "vlm" | "reasoner":
            from roadwork_serve.stages.vlm import Vlm

            return Vlm(spec)
        case "video":
            from roadwork_serve.stages.video import Video

            return Video(spec)
        case _:
            raise ConfigError(f"there is no stage {name!r}; the stages are {', '.join(STAGES)}")
