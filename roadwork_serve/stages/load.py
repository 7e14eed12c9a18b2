"""Opens an engine and the stages that ask it, importing only what they need."""

from collections.abc import Callable, Mapping

from roadwork_serve.cascade.opinion import BlockingStage, Stage
from roadwork_serve.cascade.threaded import Threaded
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import ROLES, EngineSpec, StageName, StageSpec

Opener = Callable[[EngineSpec, Mapping[StageName, StageSpec]], Mapping[StageName, Stage]]


def open_stages(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> Mapping[StageName, Stage]:
    """The stages, over one engine with its model loaded.

    users: stages of one role, by name. Raises ConfigError when the engine cannot do what they ask of it, ModelError
    when its model cannot be loaded.
    """
    (role,) = {ROLES[name] for name in users}
    if role == "language":
        return _language_stages(engine, users)
    return {name: Threaded(_blocking(name, spec, engine)) for name, spec in users.items()}


def _blocking(name: StageName, spec: StageSpec, engine: EngineSpec) -> BlockingStage:
    if name == "backbone":
        from roadwork_serve.stages.backbone import Backbone

        return Backbone(spec, engine)
    from roadwork_serve.stages.signs import Signs

    return Signs(spec, engine)


def _language_stages(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
    if engine.runs != "transformers":
        raise ConfigError(f"stages {', '.join(users)}: {engine.runs} runs no language model; use transformers")
    from roadwork_serve.engines.transformers import VisionLanguageEngine
    from roadwork_serve.engines.weights import folder
    from roadwork_serve.stages.video import Video
    from roadwork_serve.stages.vlm import Vlm

    opened = VisionLanguageEngine(
        folder(engine.model),
        dtype=engine.dtype,
        device=engine.device,
        threads=engine.threads,
        max_pixels=engine.language.max_pixels,
    )
    return {name: (Video if name == "video" else Vlm)(name, spec, engine, opened) for name, spec in users.items()}
